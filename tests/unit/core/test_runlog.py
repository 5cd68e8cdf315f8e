import json

from alignment.core.context import Context, derive_seed
from alignment.core.runlog import RunLog


def test_a_resumed_log_forgets_what_will_be_written_again(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.metrics(step, {"train/loss": 1 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tra')  # a line cut by a crash
    log.forget_after(2)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    log = RunLog(tmp_path)
    log.metrics(1, {"loss": float("nan"), "kl": float("inf")})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (row["loss"], row["kl"]) == ("nan", "inf")


def test_rows_come_back_as_numbers_also_those_that_are_not_finite(tmp_path):
    log = RunLog(tmp_path)
    assert log.rows() == []
    log.metrics(1, {"rollout/kl": 0.5, "loss": float("inf")})
    log.metrics(2, {"rollout/kl": 1})
    first, second = log.rows()
    assert (first["step"], first["rollout/kl"], first["loss"]) == (1, 0.5, float("inf"))
    assert (second["step"], second["rollout/kl"]) == (2, 1.0)


def test_a_sink_hears_of_every_row_and_of_what_is_forgotten(tmp_path):
    heard = []

    class Sink:
        def metrics(self, step, values):
            heard.append((step, dict(values)))

        def forget_after(self, step, last):
            heard.append(f"forget {step + 1} to {last}")

    log = RunLog(tmp_path, Sink())
    log.forget_after(0)
    for step in (1, 2):
        log.metrics(step, {"loss": 2.0})
    log.forget_after(1)
    assert heard == ["forget 1 to -1", (1, {"loss": 2.0}), (2, {"loss": 2.0}), "forget 2 to 2"]


def test_seeds_differ_by_purpose_and_are_the_same_everywhere(tmp_path):
    context = Context.at(tmp_path, seed=7)
    assert context.seed_for("sampling") == derive_seed(7, "sampling")
    assert context.seed_for("sampling") != context.seed_for("shuffle")
    assert derive_seed(7, "sampling") != derive_seed(8, "sampling")
    assert 0 <= derive_seed(7, "sampling") < 2**31


def test_progress_is_readable_at_any_moment(tmp_path):
    context = Context.at(tmp_path)
    context.progress.update(3, 3, "train", loss=0.5)
    state = json.loads((tmp_path / "progress.json").read_text())
    assert (state["done"], state["total"], state["phase"], state["live"]) == (3, 3, "train", {"loss": 0.5})
