"""Which test, correction and equivalence p a comparison of two models carries, on scores worked out by hand."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired
from synthetic_report import tiny

from eval.compare import compare_models


def answers(n11: int, n10: int, n01: int, n00: int) -> tuple[list[int], list[int]]:
    """Scores before and after."""
    return [1] * (n11 + n10) + [0] * (n01 + n00), [1] * n11 + [0] * n10 + [1] * n01 + [0] * n00


def compared(folder, tasks: dict[str, tuple[int, int, int, int]], **options):
    pairs = {task: answers(*counts) for task, counts in tasks.items()}
    a, b = (tiny(folder, name, {task: pair[i] for task, pair in pairs.items()}) for i, name in enumerate("ab"))
    return compare_models([a], [b], **options)


CHANGES = {"facts": (20, 8, 0, 4), "sorting": (20, 7, 1, 4), "sums": (20, 6, 1, 5), "odd": (20, 2, 2, 8)}


def test_exploratory_tasks_are_corrected_by_benjamini_and_hochberg_and_declared_ones_by_holm(tmp_path):
    plain = [
        2 / 2**8,
        2 * 9 / 2**8,
        2 * 8 / 2**7,
        1.0,
    ]  # exact McNemar: of 8 changes 0 back, of 8 one, of 7 one, of 4 two
    explored, declared = (
        compared(tmp_path, CHANGES),
        compared(tmp_path, CHANGES, roles=dict.fromkeys(CHANGES, "retained")),
    )
    for arm in (explored, declared):
        assert [row.p for row in arm.rows] == pytest.approx(plain)
    assert [row.p_adjusted for row in explored.rows] == pytest.approx(stats.false_discovery_control(plain))
    assert [row.p_adjusted for row in declared.rows] == pytest.approx([4 * plain[0], 3 * plain[1], 2 * plain[2], 1.0])
    assert [row.verdict.word for row in declared.rows][:2] == ["forgot", "inconclusive"]


def test_a_row_carries_the_equivalence_test_against_its_margin(tmp_path):
    [row] = compared(tmp_path, {"facts": (150, 2, 3, 45)}).rows
    before, after = (np.array(side, float) for side in answers(150, 2, 3, 45))
    both, (_, above, _), _ = ttost_paired(after, before, -0.05, 0.05)
    assert row.margin == 0.05 and row.verdict.word == "retained"
    assert row.p_retained == pytest.approx(above) and row.p_equivalent == pytest.approx(both)
    assert row.as_json()["p_retained"] == row.p_retained < 0.05


def test_an_unchanged_group_counts_its_smallest_task_for_each(tmp_path):
    [group] = compared(tmp_path, {"facts": (4, 0, 0, 4), "sorting": (40, 0, 0, 40)}).groups
    assert group.estimate.ci90[0] == pytest.approx(0.05 ** (1 / 16) - 1)
    assert group.p_retained == pytest.approx(0.95**16) and group.verdict.word == "inconclusive"
