"""Win rates by hand: ties, seeds, missing verdicts, a judge that likes what stands first."""

import json

import pytest
from scipy import stats
from win_cells import cell

from alignment.core.errors import SuiteError
from eval.statistics import crossed
from eval.win_summary import win_rates
from eval.win_words import win_line


def test_a_tie_is_half_a_win_and_one_checkpoint_is_judged_by_the_exact_sign_test(tmp_path):
    [rate] = win_rates([[cell(tmp_path, [1, 1, 1, 1, 1, 1, 1, 0, 0.5, 0.5])]])
    assert rate.value == pytest.approx(0.8)  # (7 + 2 / 2) / 10
    assert (rate.wins, rate.ties, rate.losses, rate.n, rate.scope) == (7, 2, 1, 10, "checkpoint")
    assert rate.p == pytest.approx(stats.binomtest(7, 8, 0.5).pvalue)
    low, high = stats.ttest_1samp([1, 1, 1, 1, 1, 1, 1, 0, 0.5, 0.5], 0.5).confidence_interval(0.95)
    assert rate.ci95 == pytest.approx((low, min(1.0, high)))


def test_seeds_and_prompts_are_crossed(tmp_path):
    outcomes = [[1, 0, 1, 0.5], [1, 1, 1, 0], [1, 0, 0.5, 0.5]]
    [rate] = win_rates([[cell(tmp_path, wins, seed) for seed, wins in enumerate(outcomes)]])
    expected = crossed([[win - 0.5 for win in wins] for wins in outcomes])
    assert rate.value == pytest.approx(sum(map(sum, outcomes)) / 12) and rate.n_seeds == 3 and rate.scope == "method"
    assert rate.ci_method == "crossed" and rate.p == expected.p
    assert rate.per_seed == ((0, 0.625), (1, 0.75), (2, 0.5))


def test_winning_always_is_known_only_as_well_as_so_many_prompts_tell(tmp_path):
    [rate] = win_rates([[cell(tmp_path, [1] * 20)]])
    assert rate.value == 1 and rate.ci95 == pytest.approx((1 - (1 - 0.025 ** (1 / 20)), 1.0))
    assert rate.p == pytest.approx(2 * 0.5**20) and rate.verdict == "wins"
    assert rate.controlled is None and "no length-controlled rate" in " ".join(rate.warnings)
    [even] = win_rates([[cell(tmp_path, [0.5] * 20)]])
    assert even.value == 0.5 and even.p == 1 and even.verdict == "inconclusive"
    [many] = win_rates([[cell(tmp_path, [0.5] * 200)]])
    assert many.verdict == "even"


def test_a_prompt_without_a_verdict_at_one_seed_is_left_out_at_all(tmp_path):
    cells = [cell(tmp_path, [1, None, 0, 1], 0), cell(tmp_path, [1, 1, 1, None], 1)]
    [rate] = win_rates([cells])
    assert rate.n == 2 and rate.no_verdict == 2 and rate.value == pytest.approx(0.75)  # prompts 0 and 2: 1, 0 and 1, 1
    assert "no verdict on 2 pairs" in rate.warnings[0]
    with pytest.raises(SuiteError, match="no prompt has a verdict at every seed"):
        win_rates([[cell(tmp_path, [1, None]), cell(tmp_path, [None, 1], 1)]])


def test_a_judge_that_always_takes_the_first_is_found_out(tmp_path):
    verdicts = [("reference", "new")] * 3 + [("new", "new")]
    [rate] = win_rates([[cell(tmp_path, [0.5, 0.5, 0.5, 1], verdicts=verdicts)]])
    assert rate.orders is not None
    assert (rate.orders.pairs, rate.orders.contradicted) == (4, 3)
    assert rate.orders.first == pytest.approx(7 / 8)  # of 8 choices, all but `new` shown second
    assert "position bias: the judge contradicts itself on 75 %" in " ".join(rate.warnings)


def test_ties_and_missing_verdicts_of_one_order_are_no_contradiction(tmp_path):
    verdicts = [("tie", "new"), (None, "new"), ("new", "new"), ("tie", "tie")]
    [rate] = win_rates([[cell(tmp_path, [0.75, None, 1, 0.5], verdicts=verdicts)]])
    assert rate.orders is not None and (rate.orders.pairs, rate.orders.contradicted) == (3, 0)
    assert rate.orders.first == pytest.approx(2 / 3)  # choices: new (shown first), new (second), new (first)


def test_seeds_that_were_asked_other_prompts_are_refused(tmp_path):
    cells = [cell(tmp_path, [1, 0], 0), cell(tmp_path, [1, 0], 1, prompts=["p0", "other"])]
    with pytest.raises(SuiteError, match="seed 1 was asked other prompts than seed 0"):
        win_rates([cells])


def test_declared_win_rates_share_one_correction(tmp_path):
    wins = [1] * 8 + [0]
    alone, *_ = win_rates([[cell(tmp_path, wins)]])
    both = win_rates([[cell(tmp_path, wins)], [cell(tmp_path, wins)]])
    assert alone.p == pytest.approx(20 / 512)  # 8 of 9: 2 (1 + 9) / 2^9
    assert [rate.p_adjusted for rate in both] == pytest.approx([40 / 512] * 2)
    assert alone.verdict == "wins" and {rate.verdict for rate in both} == {"inconclusive"}


def test_words_and_json_say_the_same(tmp_path):
    lengths = [(10, 10), (10, 14), (10, 6), (12, 15), (10, 9), (11, 10), (10, 13), (10, 8)]
    [rate] = win_rates([[cell(tmp_path, [1, 1, 0, 1, 0, 1, 0, 1], lengths=lengths)]])
    row = json.loads(json.dumps(rate.as_json()))
    assert row["win_rate"] == 0.625 and row["length"] == [
        sum(a for a, _ in lengths) / 8,
        sum(b for _, b in lengths) / 8,
    ]
    text = win_line(row)
    assert text.startswith("ppo wins 62.5 % against sft (") and "8 prompts, 1 seed; judge: rule longer" in text
    assert f"at equal length {100 * row['length_controlled']['win_rate']:.1f} %" in text
    assert text.endswith(": inconclusive")
