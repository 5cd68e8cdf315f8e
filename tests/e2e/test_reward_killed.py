from killed import killed_and_whole
from safetensors.torch import load_file

from alignment.data.rows import write_rows


def test_killed_and_resumed_equals_never_killed(tiny_folder, tmp_path):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "big", "small"]
    rows = [
        {"prompt": f"why {a}", "chosen": f" good {b}" * (n % 3 + 1), "rejected": f" bad {b}"}
        for n, a in enumerate(words)
        for b in words
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {
        "model": {"path": "m"},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "pooling": "mean",
        "epochs": 3,
        "batch_size": 4,
        "checkpoint_every": 15,
    }
    second_of_three_epochs = 45
    resumed, whole = killed_and_whole("reward", tiny_folder, settings, tmp_path, second_of_three_epochs)
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0} and whole["steps"] == 75
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all((one[name] == other[name]).all() for name in other)
