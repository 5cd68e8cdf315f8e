"""Comparing two models: what is refused, how seeds pair, and numbers worked out by hand on a few items."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from synthetic_report import tiny, write

from alignment.core.errors import RecipeError, SuiteError
from eval.compare import ancestors, compare_all, compare_models
from eval.config import Comparison
from eval.pairing import SAME

BEFORE, AFTER = [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0]


def edit(model, column: str, change) -> None:
    """Rewrite one column of a model's items."""
    path = model.evaluation / "items.parquet"
    table = pq.read_table(path)
    values = change(table[column].to_pylist())
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, table.schema.field(index), [values]), path)


@pytest.mark.parametrize("key", SAME)
def test_unequal_measurement_is_refused(tmp_path, key):
    a, b = (tiny(tmp_path, stage, {"facts": BEFORE}) for stage in ("a", "b"))
    path = b.evaluation / "evaluation.json"
    document = json.loads(path.read_text())
    document["tasks"]["facts"][key] = "other"
    path.write_text(json.dumps(document))
    if key == "filter":
        edit(b, "filter", lambda values: ["other"] * len(values))
    with pytest.raises(SuiteError) as caught:
        compare_models([a], [b])
    assert caught.value.where == "task facts"
    assert f"{SAME[key]} differs" in caught.value.what and "'other' for b (seed 0)" in caught.value.what
    assert caught.value.expected and caught.value.remedy


def test_one_other_prompt_is_refused_with_the_share_that_pairs(tmp_path):
    a, b = (tiny(tmp_path, stage, {"facts": BEFORE}) for stage in ("a", "b"))
    edit(b, "prompt_hash", lambda values: ["changed", *values[1:]])
    with pytest.raises(SuiteError, match=r"pair to 77.8 % \(7 of 9 items; the same documents under other prompts\)"):
        compare_models([a], [b])


def test_a_missing_item_is_refused(tmp_path):
    a, b = (
        tiny(tmp_path, "a", {"facts": BEFORE}, data_digest="x"),
        tiny(tmp_path, "b", {"facts": BEFORE[:7]}, data_digest="x"),
    )
    with pytest.raises(SuiteError, match=r"7 of 8 items; documents on one side only"):
        compare_models([a], [b])


def test_a_file_cut_short_and_a_missing_score_are_refused(tmp_path):
    a, b = tiny(tmp_path, "a", {"facts": BEFORE}), tiny(tmp_path, "b", {"facts": AFTER})
    edit(b, "score", lambda values: [None, *values[1:]])
    with pytest.raises(SuiteError, match=r"b \(seed 0\), task facts: items without a finite score"):
        compare_models([a], [b])
    path = b.evaluation / "items.parquet"
    pq.write_table(pq.read_table(path).slice(0, 6), path)
    with pytest.raises(SuiteError, match=r"counts 8 items, items.parquet holds 6"):
        compare_models([a], [replace(b)])


def test_order_of_the_rows_does_not_matter(tmp_path):
    a, b = tiny(tmp_path, "a", {"facts": BEFORE}), tiny(tmp_path, "b", {"facts": AFTER})
    plain = compare_models([a], [b]).rows[0]
    path = b.evaluation / "items.parquet"
    pq.write_table(pq.read_table(path).take([5, 3, 7, 0, 2, 1, 4, 6]), path)
    again = compare_models([a], [replace(b)]).rows[0]
    assert again.transitions == plain.transitions and again.estimate == plain.estimate


def test_one_checkpoint_by_hand(tmp_path):
    a, b = tiny(tmp_path, "a", {"facts": BEFORE}), tiny(tmp_path, "b", {"facts": AFTER})
    arm = compare_models([a], [b])
    [row] = arm.rows
    assert (row.transitions.n11, row.transitions.n10, row.transitions.n01, row.transitions.n00) == (3, 1, 1, 3)
    assert row.delta == 0 and row.transitions.forgetting == 1 / 8
    assert row.f_adj == pytest.approx(1 / 8 - 0.5 * 0.5 / 3)
    assert row.p == 1.0  # exact McNemar: one each way
    assert row.estimate.method == "paired" and row.scope == "checkpoint" and row.churn_floor is None
    assert "no claim about the method" in arm.scope_caption
    assert row.retention is None  # 4 of 8 is not above a chance of .25 with certainty
    # _row writes choice margins of +1 for right, -1 for wrong: changes -2, +2 and six zeros
    assert row.margin_change.value == pytest.approx(0.0)


def test_a_fixed_seed_pairs_with_every_seed(tmp_path):
    base = tiny(tmp_path, "base", {"facts": BEFORE}, seed=7)
    arms = [tiny(tmp_path, "sft", {"facts": scores}, seed=i) for i, scores in enumerate([AFTER, BEFORE, [1] * 8])]
    arm = compare_models([base], arms)
    [row] = arm.rows
    assert arm.seeds == (0, 1, 2) and row.n_seeds == 3 and row.scope == "method"
    assert [delta for _, delta in row.per_seed] == [0.0, 0.0, 0.5]
    assert row.transitions.n == 24
    # between seeds: 2, 4 and 4 of 8 answers differ; half of the mean of these shares
    assert row.churn_floor == pytest.approx((2 / 8 + 4 / 8 + 4 / 8) / 3 / 2)


def test_other_seeds_do_not_pair(tmp_path):
    a = [tiny(tmp_path, "a", {"facts": BEFORE}, seed=seed) for seed in (0, 1)]
    b = [tiny(tmp_path, "b", {"facts": BEFORE}, seed=seed) for seed in (0, 2)]
    with pytest.raises(SuiteError, match=r"seeds \[0, 1\] and \[0, 2\] do not pair"):
        compare_models(a, b)


def test_equal_scores_warn_of_an_adapter_that_was_not_loaded(tmp_path):
    a, b = tiny(tmp_path, "base", {"facts": BEFORE}), tiny(tmp_path, "sft", {"facts": BEFORE})
    arm = compare_models([a], [b])
    assert "bit for bit" in arm.warnings[0] and "adapter" in arm.warnings[0]
    assert "no item changed" in arm.rows[0].warnings[0]
    assert arm.rows[0].verdict.word == "inconclusive"  # eight items cannot show that nothing is lost
    two = compare_models(*([tiny(tmp_path, name, {"facts": BEFORE, "sums": BEFORE})] for name in ("c", "d"))).groups[0]
    assert two.estimate.ci90[0] == pytest.approx(0.05 ** (1 / 16) - 1)  # sixteen unchanged items know more, but not all
    edit(b, "choice_lls", lambda values: [[-1.0, -2.0, -3.0, -4.5], *values[1:]])
    assert compare_models([a], [replace(b)]).warnings == ()


def test_undeclared_tasks_are_exploratory(tmp_path):
    a = tiny(tmp_path, "a", {"facts": BEFORE, "only_a": BEFORE})
    b = tiny(tmp_path, "b", {"facts": AFTER, "sorting": BEFORE})
    arm = compare_models([a], [b])
    assert [row.task for row in arm.rows] == ["facts"] and arm.rows[0].p_method == "fdr_bh"
    assert arm.warnings == ("on one side only, not compared: only_a, sorting",)
    declared = compare_models([a], [b], roles={"facts": "retained"})
    assert declared.rows[0].p_method == "holm"
    with pytest.raises(SuiteError, match="was not evaluated on only_a"):
        compare_models([a], [b], roles={"only_a": "retained"})


def test_a_metric_without_margin_is_refused(tmp_path):
    a, b = tiny(tmp_path, "a", {"facts": BEFORE}), tiny(tmp_path, "b", {"facts": AFTER})
    for model in (a, b):
        edit(model, "metric", lambda values: ["brier"] * len(values))
        path = model.evaluation / "evaluation.json"
        path.write_text(path.read_text().replace('"metric": "acc"', '"metric": "brier"'))
    with pytest.raises(RecipeError, match=r"set comparison.margin.brier"):
        compare_models([a], [b])
    assert compare_models([a], [b], Comparison(margin={"brier": 0.1})).rows[0].margin == 0.1


def test_one_margin_leaves_the_others_as_they_are():
    comparison = Comparison(margin={"gold": 0.2})
    assert (comparison.margin_of("gold"), comparison.margin_of("acc")) == (0.2, 0.05)
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Comparison(margin={"gold": bad})


def test_group_is_the_unweighted_mean_of_proportions(tmp_path):
    before = {"facts": BEFORE, "sorting": [1, 1], "lab_service": [1, 1], "lab_texts": [0, 1]}
    after = {"facts": AFTER, "sorting": [0, 1], "lab_service": [1, 1], "lab_texts": [0, 1]}
    sides = [tiny(tmp_path, name, scores) for name, scores in (("a", before), ("b", after))]
    roles = {"lab_service": "target", "facts": "retained", "sorting": "retained", "lab_texts": "retained"}
    arm = compare_models([sides[0]], [sides[1]], roles=roles)
    [group] = arm.groups
    assert group.tasks == ("facts", "sorting")  # bits per byte are on another scale
    assert group.delta == pytest.approx((0.0 - 0.5) / 2) and group.n == 10
    assert arm.headline("retained") is group
    assert arm.headline("target").task == "lab_service"  # an only task needs no group


def test_comparisons_made_base_parent_contrast(tmp_path):
    kinds = {(arm.reference, arm.new): set(arm.kinds) for arm in compare_all(write(tmp_path, items=20))}
    assert kinds == {
        ("base", "sft"): {"base", "parent"},
        ("base", "ppo"): {"base"},
        ("sft", "ppo"): {"parent", "contrast"},
    }


def test_a_contrast_with_an_unmeasured_stage_is_refused(tmp_path):
    report = write(tmp_path, items=20, comparison=Comparison(contrasts=[("sft", "dpo")]))
    with pytest.raises(RecipeError, match="dpo was not evaluated"):
        compare_all(report)


def test_ancestors_end_at_the_last_measured_one():
    assert ancestors("ppo", {"ppo": "sft", "sft": "base", "base": "outside"}) == ["sft", "base"]
    assert ancestors("base", {"base": None}) == []


def test_bits_per_byte_that_rise_are_a_loss(tmp_path):
    report = write(tmp_path, items=40)
    arm = next(arm for arm in compare_all(report) if (arm.reference, arm.new) == ("base", "sft"))
    row = next(row for row in arm.rows if row.task == "lab_texts")
    assert row.delta > 0 and row.gain == -row.delta and not row.higher_is_better
    assert row.verdict.note == "small loss" and row.estimate.method == "bootstrap"
    assert row.new_value - row.reference_value == pytest.approx(row.delta)


def test_seeds_that_agree_have_no_churn_and_a_shared_base_has_none_to_show(tmp_path):
    base = tiny(tmp_path, "base", {"facts": BEFORE})
    same = [tiny(tmp_path, "sft", {"facts": AFTER}, seed=seed) for seed in (0, 1)]
    assert compare_models([base], same).rows[0].churn_floor == 0.0
    assert compare_models([base], same[:1]).rows[0].churn_floor is None
