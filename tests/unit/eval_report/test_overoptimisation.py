"""Proxy and gold against the distance from the start: the fitted curve, where it turns, and what is read from logs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_report import tiny

from eval.overoptimisation import fit_gold, overoptimisation
from eval.results import plain

DISTANCES = np.array([0.0, 0.5, 1.0, 2.0, 4.0])


def gold(distance: np.ndarray, start: float, a: float, b: float) -> np.ndarray:
    return np.array([start + d * (a - b * math.log(d)) if d else start for d in distance])


def test_points_on_the_curve_give_its_parameters():
    fit = fit_gold([(DISTANCES[:3], gold(DISTANCES[:3], 0.4, 0.3, 0.2)), (DISTANCES, gold(DISTANCES, 0.6, 0.3, 0.2))])
    assert (fit.start, fit.a, fit.b) == pytest.approx((0.5, 0.3, 0.2), abs=1e-9)  # each run from its own start
    assert fit.r2 == pytest.approx(1.0) and fit.furthest == 4.0
    assert fit.turn == pytest.approx(math.exp(0.5))  # a / b - 1 = .5
    highest = fit.at(np.array([fit.turn - 0.1, fit.turn, fit.turn + 0.1]))
    assert highest[1] > highest[0] and highest[1] > highest[2]


def test_intervals_come_from_drawing_whole_runs():
    """Two runs at the same distances: the drawn tables are run one twice, both, or run two twice, with chances 1/4, 1/2
    and 1/4, so the percentiles are the runs' own parameters."""
    fit = fit_gold([(DISTANCES, gold(DISTANCES, 0.4, 0.3, 0.2)), (DISTANCES, gold(DISTANCES, 0.6, 0.1, 0.3))])
    assert (fit.start, fit.a, fit.b) == pytest.approx((0.5, 0.2, 0.25), abs=1e-9)
    assert fit.a_ci == pytest.approx((0.1, 0.3)) and fit.b_ci == pytest.approx((0.2, 0.3))
    assert fit.turn_ci == pytest.approx((math.exp(0.1 / 0.3 - 1), math.exp(0.5))) and fit.turn_seen == 1.0


def test_a_form_that_does_not_hold_stands_beside_the_means_as_seen():
    """Gold rises to .8 at 1 and lies at its floor from 4 on: the means see it, the form cannot flatten out."""
    distance = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0])
    run = (distance, np.array([0.5, 0.7, 0.8, 0.4, 0.0, 0.0, 0.0, 0.0]))
    fit = fit_gold([run, run])
    assert fit.r2_free == pytest.approx(1.0) and fit.r2 < 0.9  # no two distances share a stretch of .5
    assert fit.highest == pytest.approx((1.0, 0.8))


def test_a_turn_outside_the_distances_seen_is_not_claimed():
    near = DISTANCES[:4]
    assert fit_gold([(near, gold(near, 0.5, 0.9, 0.3))] * 2).turn is None  # exp(2) is beyond 2
    rising = fit_gold([(near, gold(near, 0.5, 0.3, -0.1))] * 2)  # curved upwards: no maximum
    assert rising.turn is None and rising.turn_ci is None and rising.turn_seen == 0.0


def test_one_run_and_distances_that_tell_nothing_apart_are_not_fitted():
    assert fit_gold([(DISTANCES, gold(DISTANCES, 0.5, 0.3, 0.2))]) is None
    assert fit_gold([(np.ones(5), DISTANCES)] * 3) is None


def logged(tmp_path, stage: str, seed: int, rows: list[dict]):
    path = tmp_path / f"{stage}-{seed}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 99, "rollout/k')  # cut by a crash
    return replace(tiny(tmp_path, stage, {"facts": [1, 0]}, seed=seed), metrics=path)


def test_runs_are_read_from_the_training_log(tmp_path):
    steps = [
        {"step": step, "rollout/kl": kl, "rollout/score": step / 10, "rollout/gold": value}
        for step, (kl, value) in enumerate([(-0.01, 0.5), (0.25, 0.6), (1.0, 0.7), (4.0, 0.65), ("nan", 0.1)])
    ]
    [entry] = overoptimisation([logged(tmp_path, "ppo", 0, steps)])
    [run] = entry.runs
    assert run.distance.tolist() == [0.0, 0.5, 1.0, 2.0]  # a sampled KL below 0 is 0; the step without a KL is left out
    assert run.gold.tolist() == [0.5, 0.6, 0.7, 0.65] and entry.fit is None
    about = run.as_json()
    assert (about["gold_best"], about["gold_best_distance"], about["gold_end"]) == (0.7, 1.0, 0.65)
    assert about["proxy_start"] == 0.0 and about["proxy_end"] == pytest.approx(0.3)


def test_arms_are_fitted_together_and_alone(tmp_path):
    def steps(start):
        golds = gold(DISTANCES, start, 0.3, 0.2)
        return [
            {"step": i, "rollout/kl": d * d, "rollout/score": d, "rollout/gold": g}
            for i, (d, g) in enumerate(zip(DISTANCES, golds, strict=True))
        ]

    models = [logged(tmp_path, stage, seed, steps(0.5)) for stage in ("ppo", "ppo_no_kl") for seed in (0, 1)]
    models.append(tiny(tmp_path, "sft", {"facts": [1, 0]}))  # logged nothing
    entries = overoptimisation(models)
    assert [entry.arms for entry in entries] == [["ppo", "ppo_no_kl"], ["ppo"], ["ppo_no_kl"]]
    assert [len(entry.runs) for entry in entries] == [4, 2, 2]
    document = json.loads(json.dumps(plain([entry.as_json() for entry in entries])))
    assert document[0]["fit"]["a"] == pytest.approx(0.3) and document[0]["runs"][2]["stage"] == "ppo_no_kl"


def test_a_log_without_gold_shows_the_proxy_alone(tmp_path):
    rows = [{"step": i, "rollout/kl": i, "rollout/score": i} for i in range(4)]
    [entry] = overoptimisation([logged(tmp_path, "ppo", 0, rows)])
    assert entry.fit is None and entry.runs[0].gold is None and "gold_end" not in entry.runs[0].as_json()
