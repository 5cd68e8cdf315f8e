from alignment.core.context import Context
from alignment.models.training import LengthGrouped, find_checkpoint


def test_each_epoch_visits_every_row_once_in_an_order_of_its_own_that_can_be_repeated():
    lengths = [n * 7 % 23 for n in range(103)]
    order = LengthGrouped(lengths, 8, seed=5)
    first, again = list(order), list(order)
    assert first == again and sorted(first) == list(range(103))
    order.set_epoch(1)
    assert list(order) != first and sorted(order) == list(range(103))
    assert list(LengthGrouped(lengths, 8, seed=6)) != first


def test_batches_hold_rows_of_similar_length():
    lengths = [n % 16 for n in range(128)]  # 16 batches of 8: each length fills one batch exactly
    order = list(LengthGrouped(lengths, 8, seed=0))
    batches = [{lengths[index] for index in order[start : start + 8]} for start in range(0, 128, 8)]
    assert all(len(batch) == 1 for batch in batches)
    assert [min(batch) for batch in batches] != sorted((min(batch) for batch in batches), reverse=True)


def test_a_half_written_checkpoint_is_removed_and_later_metrics_with_it(tmp_path):
    context = Context.at(tmp_path)
    assert find_checkpoint(context) is None
    for step in (5, 10):
        folder = context.scratch / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        context.log.metrics(step, {"train/loss": 1.0})
    (context.scratch / "checkpoints" / "checkpoint-5" / "complete.json").write_text("{}")
    found = find_checkpoint(context)
    assert found is not None and found.name == "checkpoint-5"
    assert not (context.scratch / "checkpoints" / "checkpoint-10").exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
