"""Relearning a lost skill: steps and savings by hand, curves that never get there, intervals that know what both sides share."""

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_report import tiny
from synthetic_sequences import report

from alignment.core.errors import SuiteError
from eval.config import Comparison, Relearning
from eval.relearning import Curve, measure_relearning, relearned, savings_of, steps_to
from eval.report import build_report
from eval.sequence_words import relearning_line

PROBE = Relearning(task="a", lost="again", never="new", threshold=0.8)
STEPS = np.array([0, 10, 20, 40])


def test_steps_are_read_off_between_two_measurements():
    curves = np.array(
        [
            [0.2, 0.6, 1.0, 1.0],  # halfway between 10 and 20
            [0.2, 0.4, 0.5, 1.0],  # three fifths of the way from 20 to 40
            [0.9, 0.1, 0.1, 0.1],  # there at the start
            [0.1, 0.8, 0.2, 0.9],  # reached exactly at a measurement; that it is lost again does not count
            [0.1, 0.2, 0.3, 0.79],  # never
        ]
    )
    assert steps_to(0.8, STEPS, curves) == pytest.approx([15, 32, 0, 10, math.inf])


def test_savings_by_hand_and_as_bounds():
    lost, never = np.array([5.0, 10.0, 40.0, 30.0, math.inf, 0.0]), np.array([20.0, 10.0, 20.0, math.inf, 20.0, 20.0])
    #                                                            never > 40: at least 1/4   lost > 40: at most -1
    assert savings_of(lost, never, 40) == pytest.approx([0.75, 0.0, -1.0, 0.25, -1.0, 1.0])
    assert np.isnan(savings_of(np.array([math.inf, 5.0]), np.array([math.inf, 0.0]), 40)).all()


def items(*shares):
    """Scores `[1, K, 100]` of which the given shares are right."""
    return np.stack([(np.arange(100) < 100 * share).astype(float) for share in shares])[None]


def test_one_probe_by_hand():
    lost, never = Curve("again", STEPS, items(0.5, 0.9, 1, 1)), Curve("new", STEPS, items(0, 0.2, 0.6, 1))
    found = relearned(PROBE, [0], lost, never)
    assert (found.steps_lost.value, found.steps_never.value) == pytest.approx((7.5, 30))
    assert found.savings.value == pytest.approx(0.75)
    assert found.savings.ci[0] < 0.75 < found.savings.ci[1]
    assert found.notes == ()
    entry = found.as_json()
    assert entry["lost"]["steps_to_threshold"]["per_seed"] == pytest.approx([7.5]) and entry["n"] == 100
    assert entry["never"]["curve"] == {"steps": [0, 10, 20, 40], "values": [0.0, 0.2, 0.6, 1.0]}


def test_what_never_gets_there_is_more_than_the_last_step_and_null_in_json():
    lost, never = Curve("again", STEPS, items(0.5, 0.9, 1, 1)), Curve("new", STEPS, items(0, 0, 0.1, 0.2))
    found = relearned(PROBE, [0], lost, never)
    assert math.isinf(found.steps_never.value) and found.steps_never.ci == (math.inf, math.inf)
    assert found.savings.value == pytest.approx(1 - 7.5 / 40)
    assert "new does not reach 0.8 within 40 steps: savings are at least that" in found.notes
    assert found.as_json()["never"]["steps_to_threshold"]["value"] is None
    neither = relearned(PROBE, [0], never, never)
    assert math.isnan(neither.savings.value) and all(map(math.isnan, neither.savings.ci))


def test_a_skill_that_was_not_lost_and_a_control_that_knows_it_are_said():
    knows, learns = Curve("again", STEPS, items(0.9, 1, 1, 1)), Curve("new", STEPS, items(0, 0.2, 0.6, 1))
    assert relearned(PROBE, [0], knows, learns).notes == ("a was not lost: 0.90 before the first step",)
    assert (
        "new starts from a model that has the skill: no control"
        in relearned(PROBE, [0], learns, replace(knows, stage="new")).notes
    )


def test_a_curve_against_itself_saves_exactly_nothing():
    """Both sides get the same draw of seeds and items, so what they share cancels."""
    rng = np.random.default_rng(0)
    scores = (rng.random((3, 4, 50)) < np.array([0.1, 0.4, 0.7, 0.95])[:, None]).astype(float)
    found = relearned(PROBE, [0, 1, 2], Curve("again", STEPS, scores), Curve("new", STEPS, scores))
    assert found.savings.value == 0 and found.savings.ci == (0, 0)
    assert found.steps_lost.ci[0] < found.steps_lost.value < found.steps_lost.ci[1]


def test_more_items_and_seeds_narrow_the_interval():
    rng = np.random.default_rng(1)

    def width(seeds, n):
        scores = (rng.random((seeds, 4, n)) < np.array([0.1, 0.4, 0.7, 0.95])[:, None]).astype(float)
        low, high = relearned(
            PROBE, list(range(seeds)), Curve("again", STEPS, scores), Curve("new", STEPS, scores)
        ).steps_lost.ci
        return high - low

    assert width(5, 1000) < width(2, 50) / 2


def trained(folder, stage, seed, parent, curve, steps=(10, 20)):
    """A finished model with snapshots at `steps` and its last step 40. curve: digits of each point."""
    *along, end = [{"a": [int(digit) for digit in digits]} for digits in curve]
    model = replace(tiny(folder, stage, end, seed, parent), training={"steps": 40})
    snapshots = [
        replace(model, step=step, evaluation=tiny(folder / f"{step}", stage, scores, seed).evaluation)
        for step, scores in zip(steps, along, strict=True)
    ]
    return replace(model, snapshots=snapshots)


def probed(folder, **changes):
    models = [tiny(folder, "base", {"a": [0, 0, 0, 0]}), tiny(folder, "forgot", {"a": [1, 0, 0, 0]})]
    for seed in (0, 1):
        models.append(trained(folder, "again", seed, "forgot", ("1100", "1111", "1111"), **changes))
        models.append(trained(folder, "new", seed, "base", ("0000", "1000", "1111")))
    return report(models, ["a"], Comparison(relearning=[PROBE]))


def test_the_curve_starts_with_the_model_before_and_ends_with_the_finished_one(tmp_path):
    [found] = measure_relearning(probed(tmp_path))
    assert found.lost.steps.tolist() == [0, 10, 20, 40] and found.seeds == (0, 1)
    assert found.lost.values.tolist() == [0.25, 0.5, 1.0, 1.0]
    assert found.never.values.tolist() == [0.0, 0.0, 0.25, 1.0]
    assert found.steps_lost.value == pytest.approx(16) and found.steps_never.value == pytest.approx(
        20 + 20 * 0.55 / 0.75
    )


def test_seeds_measured_at_different_steps_are_refused(tmp_path):
    made = probed(tmp_path)
    made.models[2] = trained(tmp_path / "other", "again", 0, "forgot", ("1100", "1111", "1111"), steps=(5, 20))
    with pytest.raises(SuiteError, match="measured at different steps"):
        measure_relearning(made)


def test_a_start_that_was_not_evaluated_is_named(tmp_path):
    made = probed(tmp_path)
    with pytest.raises(SuiteError, match="forgot was not evaluated"):
        measure_relearning(replace(made, models=[model for model in made.models if model.stage != "forgot"]))


def test_page_and_terminal_say_how_fast_it_came_back(tmp_path):
    results = build_report(probed(tmp_path / "cells"), tmp_path / "out")
    [entry] = results.data["relearning"]
    line = relearning_line(entry)
    assert (
        line.startswith("a at 80.0 points after 16 steps where it was lost")
        and "and 35 steps where it was never there" in line
    )
    page = results.page.read_text(encoding="utf-8")
    assert "Gone or only buried?" in page and 'id="figure-relearning_0"' in page and ">16</td>" in page
    unknown = entry | {"savings": {"value": None, "ci": [None, None]}}
    assert relearning_line(unknown).endswith("savings unknown")
