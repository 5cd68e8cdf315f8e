"""A classifier whose training was killed ends as one that was not, with its adapter and the head beside it."""

from pathlib import Path

from killed import killed_and_whole, read_losses
from safetensors.torch import load_file
from small_models import save_small

from alignment.data.rows import write_rows


def test_killed_and_resumed_equals_never_killed(tmp_path: Path):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "good", "bad"]
    folder = save_small("distilbert", tmp_path / "small", words)
    rows = [{"text": " ".join([a, b] * (n % 3 + 1)), "label": n % 2} for n, a in enumerate(words) for b in words]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {
        "model": {"path": "m"},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "steps": 120,  # several epochs of 25 steps
        "batch_size": 4,
        "learning_rate": 1e-3,
        "peft": {"r": 4, "dropout": 0.1},
        "checkpoint_every": 15,
    }
    resumed, whole = killed_and_whole("classify", folder, settings, tmp_path, step=45)
    assert (resumed["steps"], resumed["train_loss"]) == (whole["steps"], whole["train_loss"])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all((one[name] == other[name]).all() for name in other)
    assert read_losses(tmp_path / "killed" / "metrics.jsonl") == read_losses(tmp_path / "whole" / "metrics.jsonl")
