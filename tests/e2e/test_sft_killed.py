from pathlib import Path

import pytest
from killed import killed_and_whole, read_losses
from safetensors.torch import load_file

from alignment.data.rows import write_rows


@pytest.mark.parametrize(
    "peft",
    [None, {"r": 4, "dropout": 0.1}, {"method": "ptuning", "virtual_tokens": 4}],
    ids=["full", "lora with dropout", "p-tuning, whose network is not part of the result"],
)
def test_killed_and_resumed_equals_never_killed(tiny_folder, tmp_path: Path, peft):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "big", "small"]
    rows = [{"prompt": f"why {a} {b}", "completion": f" {b}" * (n % 4 + 1)} for n, a in enumerate(words) for b in words]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {
        "model": {"path": "m"},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "steps": 120,  # several epochs of 25 steps, so the order of a later epoch is resumed too
        "batch_size": 4,
        "peft": peft,
        "checkpoint_every": 15,
    }
    resumed, whole = killed_and_whole("sft", tiny_folder, settings, tmp_path, step=45)
    for key in ("train_tokens", "steps", "train_loss"):
        assert resumed[key] == whole[key]
    weights = "adapter/adapter_model.safetensors" if peft else "model.safetensors"
    one, other = (load_file(tmp_path / name / weights) for name in ("killed", "whole"))
    assert all((one[name] == other[name]).all() for name in other)
    curves = [read_losses(tmp_path / name / "metrics.jsonl") for name in ("killed", "whole")]
    assert curves[0] == curves[1] and len(curves[0]) == 1 + 12 + 4  # the first, each 10th, each checkpoint between
