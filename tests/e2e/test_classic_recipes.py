"""Each recipe of recipes/classic, as it is shipped, with two replacements: a small model of the same architecture for the one on the
hub, and a few local rows in the hub data set's own columns. Every stage really trains, through the runner; then models are measured."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from small_models import save_small

from alignment.core.store import read_manifest
from alignment.data.rows import write_rows
from recipes.run import run_recipe
from recipes.schema import SHIPPED, load_recipe

SENTENCE = (
    "the film is a good bad fine dull story of one cow and two dogs who run eat sleep and talk all day long : ? . ! ' ,"
)
WORDS = list(
    dict.fromkeys(f"{SENTENCE} Review Sentiment negative positive Topic World Sports Business Sci / Tech".split())
)
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
ARCHITECTURES = {
    "distilbert/distilbert-base-uncased": "distilbert",
    "google-bert/bert-base-uncased": "bert",
    "openai-community/gpt2": "gpt2",
    "facebook/opt-6.7b": "opt",
    "tiiuae/falcon-7b": "falcon",
    "google-t5/t5-small": "t5",
    "Qwen/Qwen2.5-0.5B": "qwen2",
    "EleutherAI/pythia-1b-deduped": "gpt_neox",
    "meta-llama/Llama-3.1-8B": "llama",
    "meta-llama/Llama-3.2-1B": "llama",
}


def said(number: int, length: int = 6) -> str:
    """A text of known words, another one for each number."""
    return " ".join(WORDS[(number * 7 + place * (number % 5 + 1)) % 30] for place in range(length))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def transcript(number: int, answer: str) -> str:
    return f"\n\nHuman: {said(number)}?\n\nAssistant: {answer}"


# one row of each data set, in the columns that it has on the hub
DATA = {
    "stanfordnlp/imdb": lambda n: {"text": said(n), "label": n % 2},
    "stanfordnlp/sst2": lambda n: {"idx": n, "sentence": said(n), "label": n % 2},
    "fancyzhx/ag_news": lambda n: {"text": said(n), "label": n % 4},
    "Abirate/english_quotes": lambda n: {"quote": said(n), "author": "one", "tags": ["cow", "dogs"]},
    "timdettmers/openassistant-guanaco": lambda n: {"text": f"### Human: {said(n)}### Assistant: {said(n + 1)}"},
    "FiscalNote/billsum": lambda n: {"text": said(n, 9), "summary": said(n, 3), "title": said(n, 2)},
    "tatsu-lab/alpaca": lambda n: {
        "instruction": said(n), "input": said(n, 2) if n % 2 else "", "output": said(n, 3), "text": said(n, 9),
    },
    "Anthropic/hh-rlhf": lambda n: {"chosen": transcript(n, "good story"), "rejected": transcript(n, "bad film")},
    "HuggingFaceH4/ultrachat_200k": lambda n: {
        "prompt": said(n), "prompt_id": str(n), "messages": [turn("user", said(n)), turn("assistant", said(n + 1))],
    },
    "HuggingFaceH4/ultrafeedback_binarized": lambda n: {
        "prompt": said(n), "prompt_id": str(n),
        "chosen": [turn("user", said(n)), turn("assistant", "good story")],
        "rejected": [turn("user", said(n)), turn("assistant", "bad film")],
        "messages": [turn("user", said(n)), turn("assistant", "good story")], "score_chosen": 8.0, "score_rejected": 3.0,
    },
    "trl-lib/tldr": lambda n: {"prompt": f"{said(n)}\n\nTL;DR:", "completion": f" {said(n, 3)}"},
    "trl-lib/tldr-preference": lambda n: {
        "prompt": f"{said(n)}\n\nTL;DR:", "chosen": f" {said(n, 3)}", "rejected": f" {said(n + 1, 3)}",
    },
}  # fmt: skip
STEPS = {"sft": 2, "classify": 2, "seq2seq": 2, "ppo": 2}
CLASSIC = sorted(path.stem for path in (SHIPPED / "classic").glob("*.yaml"))


def replacements(name: str, folder: Path) -> list[str]:
    """The recipe's hub names replaced, its stages shortened: all as a user's `--set` would."""
    raw = yaml.safe_load((SHIPPED / "classic" / f"{name}.yaml").read_text())
    found = [f"{path}={{path: {path_of(value, folder, path)}{kept(value)}}}" for path, value in hub_references(raw)]
    for stage, block in raw["stages"].items():
        kind, own = block["kind"], f"stages.{stage}"
        if kind == "pretrained":
            continue
        found += [f"{own}.batch_size=4"] if kind != "ppo" else []
        found += [f"{own}.precision=fp32", f"{own}.runtime={{threads: 1}}"]
        if kind in STEPS:
            found += [f"{own}.steps={STEPS[kind]}"]
        if "epochs" in block and kind in ("sft", "classify", "seq2seq"):
            found += [f"{own}.epochs=null"]
        if "gradient_accumulation" in block:
            found += [f"{own}.gradient_accumulation=2"]
        if kind == "ppo":
            found += [f"{own}.rollout.engine=hf", f"{own}.rollout.batch_size=4", f"{own}.minibatch_size=2"]
            found += [f"{own}.rollout.max_new_tokens=6"]
        if "max_length" in block:
            found += [f"{own}.max_length=96"]
    if "evaluation" in raw:
        block = raw["evaluation"]
        if "retained" in block:  # lm-eval's own tasks fetch their data from the hub
            probe = {"metric": "exact_match", "data": {"path": str(texts(folder))}}
            found += ["evaluation.retained=[probe]", f"evaluation.tasks.probe={json.dumps(probe)}"]
        found += ["evaluation.limit=6"]
        for number, _ in enumerate(block.get("win_rates", [])):
            assert number == 0
            found += [f"evaluation.win_rates={json.dumps(shortened(block['win_rates'], folder))}"]
    return [*found, "seeds=[0]"]


def hub_references(value, path=""):
    """Dotted paths and contents of all references to the hub, outside of lists."""
    if isinstance(value, dict):
        if "hub" in value:
            yield path, value
        else:
            for name, inner in value.items():
                yield from hub_references(inner, f"{path}.{name}" if path else name)


def path_of(reference, folder: Path, where: str) -> Path:
    """Local stand-in of a hub reference. Train and held-out rows differ."""
    name = reference["hub"]
    if name in ARCHITECTURES:
        model = folder / ARCHITECTURES[name]
        return (
            model
            if model.exists()
            else save_small(ARCHITECTURES[name], model, [*WORDS, "<|user|>", "<|assistant|>", "<|end|>"], 256, TEMPLATE)
        )
    held_out = where.endswith("validation") or where.startswith("evaluation")
    path = folder / f"{name.replace('/', '-')}-{'held-out' if held_out else 'train'}.jsonl"
    write_rows([DATA[name](number + 100 * held_out) for number in range(16)], path)
    return path


def kept(reference) -> str:
    """How the reference is read stays; a hub's splits are not those of a file."""
    names = ("format", "columns", "values", "template", "on_error", "max_characters")
    return "".join(f", {name}: {json.dumps(reference[name])}" for name in names if name in reference)


def shortened(win_rates, folder: Path):
    prompts = {"path": str(path_of(win_rates[0]["prompts"], folder, "evaluation")), "rows": 3}
    return [win_rates[0] | {"prompts": prompts, "max_new_tokens": 6}]


def texts(folder: Path) -> Path:
    path = folder / "probe.jsonl"
    write_rows([{"prompt": said(number), "target": "cow"} for number in range(6)], path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIC)
def test_it_trains_a_small_model_of_the_same_architecture(name, tmp_path):
    overrides = replacements(name, tmp_path)
    recipe, _ = load_recipe(f"classic/{name}", overrides)
    assert "hub" not in recipe.model_dump_json(exclude_none=True), "something would still be fetched"
    out = Console(file=io.StringIO(), width=200)
    code = run_recipe(f"classic/{name}", overrides, [], 1, tmp_path / "runs", out)
    assert code == 0, out.file.getvalue()  # type: ignore[attr-defined]
    manifests = [read_manifest(path.parent) for path in (tmp_path / "runs").rglob("manifest.json")]
    made = {manifest["stage"]: manifest for manifest in manifests if manifest}
    trained = {stage for stage, config in recipe.stages.items() if config.kind != "pretrained"}
    assert trained <= made.keys()
    for stage in trained:
        assert any(name.endswith(".safetensors") for name in made[stage]["files"])
        assert made[stage]["summary"].get("steps", 0) >= 1
    if recipe.evaluation:
        assert {f"evaluate:{model}" for model in recipe.evaluation.models} <= made.keys()
        assert (tmp_path / "runs" / "classic" / name / "report" / "report.html").stat().st_size > 10_000


def test_every_architecture_and_data_set_of_the_recipes_has_a_stand_in():
    assert len(CLASSIC) == 12
    for name in CLASSIC:
        raw = yaml.safe_load((SHIPPED / "classic" / f"{name}.yaml").read_text())
        names = {value["hub"] for _, value in hub_references(raw)}
        assert names <= ARCHITECTURES.keys() | DATA.keys()
