"""The models and prompts of a workload, made on the spot: `prepare`."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context
from alignment.data.rows import load_rows, write_rows
from alignment.models.load import load_tokenizer
from alignment.models.reward_model import new_reward_model, separate_pad
from benchmarks.ppo.cases import Workload, workload_named

PAD, EOS = 0, 2
_CONSTANT = 0.25  # value of the hidden direction that no layer writes to
_PROMPTS = 1024


def prepare(workload: Workload) -> None:
    """Leaves `policy/`, `reward/` and `prompts.jsonl` in the workload's folder, once: `made.json`, written last, holds what
    they were made for."""
    made, wanted = workload.folder / "made.json", json.dumps(str(workload))
    if made.exists() and made.read_text() == wanted:
        return
    shutil.rmtree(workload.folder, ignore_errors=True)
    workload.folder.mkdir(parents=True)
    lab = workload.model == "lab"
    rows = _train_lab_policy(workload.policy) if lab else _draw_policy(workload, workload.policy)
    write_rows(rows, workload.prompts)
    _save_reward_model(workload.policy, workload.reward)
    made.write_text(wanted)


def _train_lab_policy(folder: Path) -> list[dict[str, Any]]:
    """The lab's base and its SFT, shortened: what counts here is how long the answers are, not how good."""
    from alignment.lab.config import PretrainConfig
    from alignment.lab.stage import run as pretrain
    from alignment.sft.config import SFTConfig
    from alignment.sft.stage import run as sft

    base = folder.with_name("base")
    pretrain(PretrainConfig.model_validate({"steps": 600}), {}, Context.at(base))
    config = SFTConfig.model_validate(
        {
            "model": {"path": str(base)},
            "data": {"lab": "demonstrations", "rows": 2000},
            "steps": 200,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "precision": "bf16",
        }
    )
    sft(config, {"model": Artifact("model", "base", base)}, Context.at(folder))
    return load_rows(DataRef.model_validate({"lab": "guests", "rows": _PROMPTS}), fields=("prompt",))


def _draw_policy(workload: Workload, folder: Path) -> list[dict[str, Any]]:
    """Random weights, and answers that end as the workload says."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=workload.vocabulary,
        hidden_size=workload.hidden_size,
        intermediate_size=3 * workload.hidden_size,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.hidden_size // 64,
        num_key_value_heads=workload.hidden_size // 64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    model = LlamaForCausalLM(config)
    set_ending(model, workload.end_chance)
    model.save_pretrained(folder)
    words = {"<pad>": PAD, "<unk>": 1, "<end>": EOS} | {f"w{n}": n for n in range(3, workload.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    chosen = torch.randint(3, workload.vocabulary, (_PROMPTS, workload.prompt_tokens)).tolist()
    return [{"prompt": " ".join(f"w{token}" for token in ids)} for ids in chosen]


@torch.no_grad()
def set_ending(model: LlamaForCausalLM, chance: float | None) -> None:
    """Gives every token this chance to be the EOS (None: no chance), and no chance to be the pad.

    The embedding is the output head, too, and has no bias. One is made of hidden direction 0: all tokens but EOS and pad
    bring the same constant along in it, no layer writes to it, so at the head it has one value h everywhere, and a row
    (b, 0, 0, ...) means logit b * h.
    """
    embedding = model.model.embed_tokens.weight
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0  # type: ignore[union-attr, index]
        layer.mlp.down_proj.weight[0] = 0  # type: ignore[union-attr, index]
    embedding[:, 0] = _CONSTANT
    tokens = torch.arange(3, len(embedding))[None]
    height = model.model(tokens).last_hidden_state[..., 0].mean()
    logits = model(tokens).logits
    others = torch.cat([logits[..., 1:EOS], logits[..., EOS + 1 :]], -1).logsumexp(-1).mean()
    never = -40.0 / height
    embedding[PAD], embedding[EOS] = 0, 0
    embedding[PAD, 0] = never
    embedding[EOS, 0] = never if chance is None else (others - math.log(1 / chance - 1)) / height


def _save_reward_model(policy: Path, folder: Path) -> None:
    """The policy's trunk under a random head that reads the last token: the only kind that trl's trainer takes."""
    tokenizer = load_tokenizer(policy)
    model = new_reward_model(policy, "last")
    separate_pad(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "reward_normalisation.json").write_text('{"mean": 0, "std": 1}')


if __name__ == "__main__":
    prepare(workload_named(sys.argv[1]))
