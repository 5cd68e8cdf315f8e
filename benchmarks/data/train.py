"""One training by the stage `sft`, and the most memory that it held: `python -m benchmarks.data.train FILE FOLDER`."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

WORDS = [
    f"{a}{b}{c}"
    for a in "bdfgklmnprst"
    for b in ("ala", "eri", "ono", "umi", "ibe")
    for c in ("n", "sta", "rok", "vel")
]
_STEPS, _EVERY = 50, 0.05


def main(data: Path, folder: Path) -> None:
    from alignment.core.artifact import Artifact
    from alignment.core.context import Context
    from alignment.sft.config import SFTConfig
    from alignment.sft.stage import run

    model = folder / "model"
    _save_model(model)
    settings = {"data": {"path": str(data)}, "steps": _STEPS, "batch_size": 8, "runtime": {"threads": 1}}
    config = SFTConfig.model_validate({"model": {"path": str(model)}} | settings)
    peak = _Peak()
    started = time.perf_counter()
    summary = run(config, {"model": Artifact("model", "made", model)}, Context.at(folder / "cell"))
    seconds = time.perf_counter() - started
    training = _training_seconds(folder / "cell" / "progress.json")
    found = {"rows": summary["rows"], "steps": summary["steps"], "reading_seconds": seconds - training}
    print(json.dumps(found | {"step_seconds": training / summary["steps"]} | peak.mib()))


class _Peak:
    """Watches this process: VmHWM is the kernel's own largest resident memory, mapped files included; RssAnon is sampled."""

    def __init__(self) -> None:
        self._anonymous = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def mib(self) -> dict[str, float]:
        return {"resident_mib": _status("VmHWM") / 1024, "anonymous_mib": self._anonymous / 1024}

    def _watch(self) -> None:
        while True:
            self._anonymous = max(self._anonymous, _status("RssAnon"))
            time.sleep(_EVERY)


def _status(name: str) -> int:
    """In KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _training_seconds(progress: Path) -> float:
    """From the first step to the last, as the stage told the runner."""
    state = json.loads(progress.read_text())
    return state["time"] - state["phase_started"]


def _save_model(folder: Path) -> None:
    """A Llama of 140,000 random weights that reads the words of the file, and 512 of them at most."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=512, **sizes, **ends)
    ).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
