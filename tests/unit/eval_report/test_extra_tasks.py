"""An extra task, such as a generalisation split, is compared like the others and changes nothing about them."""

from dataclasses import replace

import pytest
from synthetic_report import tiny, write

from eval.compare import compare_all, compare_models
from eval.config import EvaluateConfig

BEFORE, AFTER = [1] * 30 + [0] * 10, [1] * 18 + [0] * 22
TASKS = {"facts": "retained", "sums": "retained", "lab_service": "target"}


def sides(folder, extra):
    names = [*TASKS, *extra]
    before = dict.fromkeys(names, BEFORE)
    after = {task: AFTER if task in ("facts", *extra) else BEFORE for task in names}
    return [tiny(folder, "a", before)], [tiny(folder, "b", after)]


def test_an_extra_task_leaves_groups_and_adjusted_p_values_as_they_are(tmp_path):
    plain = compare_models(*sides(tmp_path / "plain", ()), roles=TASKS)
    more = compare_models(*sides(tmp_path / "more", ("split",)), roles=TASKS | {"split": "extra"})
    assert more.rows[:-1] == plain.rows and more.groups == plain.groups
    assert more.headline("retained") == plain.headline("retained")
    assert plain.rows[0].p_adjusted == pytest.approx(3 * plain.rows[0].p)  # Holm over the three declared tasks


def test_extra_tasks_are_corrected_among_themselves(tmp_path):
    arm = compare_models(*sides(tmp_path, ("split", "other")), roles=TASKS | {"split": "extra", "other": "extra"})
    one, two = arm.rows[-2:]
    assert (one.role, one.p_method, one.verdict.word) == ("extra", "fdr_bh", "lost")
    assert one.p_adjusted == two.p_adjusted == one.p  # Benjamini-Hochberg of two equal p values


def test_a_report_tells_extra_tasks_apart(tmp_path):
    report = write(tmp_path, items=30)
    moved = replace(report, retained=report.retained[1:], extra=report.retained[:1])
    assert moved.roles[report.retained[0]] == "extra" and moved.roles[report.retained[1]] == "retained"
    for arm in compare_all(moved):
        assert report.retained[0] not in arm.headline("retained").tasks
        assert next(row for row in arm.rows if row.task == report.retained[0]).role == "extra"


def test_naming_no_extra_task_leaves_the_identity_of_evaluations_as_it_was():
    assert "extra" not in EvaluateConfig(model={"stage": "base"}, target=["x"]).model_dump(mode="json")
