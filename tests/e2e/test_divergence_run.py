"""Divergence as a user meets it: from the recipe's block through the evaluate stage to results.json."""

import json
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
import yaml

sys.path.append(str(Path(__file__).parents[1] / "unit" / "eval_harness"))
from tiny_causal import save_tiny_causal

from alignment.data.rows import write_rows
from alignment.models.load import load_causal_lm, load_tokenizer, save_model


@pytest.fixture(scope="module")
def finished(align, tmp_path_factory):
    """`align run` of a recipe that measures two moved models against their base. The folder that it ran in."""
    folder = tmp_path_factory.mktemp("run")
    base = save_tiny_causal(folder / "base")
    for name, by in (("near", 0.02), ("far", 0.1)):
        model, noise = load_causal_lm(base), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weights in model.parameters():
                weights += by * torch.randn(weights.shape, generator=noise)
        save_model(model, load_tokenizer(base), folder / name)
    write_rows([{"text": f"w{i} red w{i + 1} blue w{i + 2}"} for i in range(30)], folder / "texts.jsonl")
    messages = [[{"role": "user", "content": f"w{i} w{i + 1}"}] for i in range(30)]
    write_rows([{"prompt": message} for message in messages], folder / "prompts.jsonl")
    recipe = {
        "name": "test/divergence",
        "stages": {
            name: {"kind": "pretrained", "model": {"path": str(folder / name)}} for name in ("base", "near", "far")
        },
        "evaluation": {
            "models": ["base", "near", "far"],
            "retained": ["texts"],
            "tasks": {"texts": {"metric": "bits_per_byte", "data": {"path": str(folder / "texts.jsonl")}}},
            "divergence": {
                "references": ["base"],
                "target": {"path": str(folder / "prompts.jsonl"), "rows": 20},
                "retained": {"path": str(folder / "texts.jsonl")},
                "max_new_tokens": 8,
            },
        },
    }
    recipe["comparison"] = {"contrasts": [["base", "near"], ["base", "far"]]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = align("run", "recipe.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "out.txt").write_text(done.stdout)
    return folder


def test_results_hold_every_divergence_with_both_intervals(finished):
    results = json.loads((finished / "runs/test/divergence/report/results.json").read_text())
    entries = {(e["stage"], e["inputs"], e["direction"]): e for e in results["divergence"]}
    kinds = [("target", "forward"), ("target", "reverse"), ("retained", "forward")]
    assert entries.keys() == {(stage, *kind) for stage in ("near", "far") for kind in kinds}
    for entry in entries.values():
        assert entry["reference"] == "base"
        for value, interval in (("per_sequence", "ci"), ("per_token", "per_token_ci")):
            assert entry[interval][0] < entry[value] < entry[interval][1]
        assert entry["per_sequence"] == pytest.approx(entry["per_token"] * entry["tokens"])
    assert entries["near", "target", "forward"]["n"] == 20
    for kind in kinds:
        assert 0 < entries["near", *kind]["per_token"] < entries["far", *kind]["per_token"]


def test_every_sequence_is_kept_beside_the_items(finished):
    folders = {
        path.parent.name.split("-")[1] for path in finished.glob("runs/test/divergence/evaluate-*/divergence.parquet")
    }
    assert folders == {"near", "far"}
    (path,) = finished.glob("runs/test/divergence/evaluate-far-*/divergence.parquet")
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert len(rows) == 20 + 20 + 30
    texts = [row for row in rows if row["inputs"] == "retained"]
    assert {row["tokens"] for row in texts} == {5}  # of six: nothing comes before the BOS
    summary = json.loads((path.parent / "manifest.json").read_text())["summary"]
    assert summary["kl_base_retained_forward"] == pytest.approx(sum(row["kl"] for row in texts) / 30)


def test_the_page_and_the_terminal_tell_it(finished):
    page = (finished / "runs/test/divergence/report/report.html").read_text()
    assert "Change on the retained tasks against forward KL from base, target inputs" in page
    assert {f'id="figure-divergence-base-{kind}"' in page for kind in ("target", "retained")} == {True}
    assert "KL from base, nats a target answer: near" in (finished / "out.txt").read_text()
