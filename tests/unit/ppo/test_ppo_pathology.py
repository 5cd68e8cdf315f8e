"""Warnings in words: each known pathology is seen in a history that has it, and none in histories of healthy runs."""

import math
import random

import pytest

from alignment.ppo.pathology import Watch, symptoms


def healthy(steps=60, seed=0, **changed):
    """A run as the lab's: everything moves to its plateau in some 20 steps, each number with its batch's noise.

    changed: per metric, `group__name=f(step)` in place of the healthy curve.
    """
    noise = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        learned = 1 - math.exp(-step / 8)
        row = {
            "step": step,
            "rollout/score": 1.1 * learned + noise.gauss(0, 0.06),
            "rollout/gold": 0.55 + 0.3 * learned + noise.gauss(0, 0.025),
            "rollout/kl": 1.5 * learned + noise.gauss(0, 0.2),
            "rollout/entropy": 0.32 - 0.1 * learned + noise.gauss(0, 0.01),
            "rollout/length": 19 + noise.gauss(0, 0.6),
            "rollout/without_eos": max(0.0, noise.gauss(0, 0.02)),
            "critic/explained_variance": 0.8 - 6 * math.exp(-step / 2) + noise.gauss(0, 0.1),
            "sync/logprob_gap": abs(0.0045 + noise.gauss(0, 0.001)),
            "policy/approx_kl": 0.002 + 0.02 * math.exp(-step / 4),
            "update/skipped": float(step % 30 == 0),
        }
        rows.append(row | {name.replace("__", "/"): curve(step) for name, curve in changed.items()})
    return rows


def kinds(rows, **options):
    return [symptom.kind for symptom in symptoms(rows, **options)]


def ever(rows, **options):
    """Every kind that a watch told, in order of appearance."""
    watch = Watch(every=10_000, **options)
    return [symptom.kind for row in rows for symptom in watch.see(row)]


@pytest.mark.parametrize("seed", range(10))
def test_a_healthy_run_is_never_warned(seed):
    assert ever(healthy(steps=120, seed=seed)) == []


def test_one_terrible_step_is_no_pathology():
    def once(bad, good):
        return lambda step: bad if step == 30 else good

    rows = healthy(
        40,
        rollout__kl=once(30.0, 1.5),
        rollout__length=once(48.0, 19.0),
        rollout__without_eos=once(1.0, 0.0),
        rollout__entropy=once(0.01, 0.25),
        critic__explained_variance=once(-8.0, 0.7),
        sync__logprob_gap=once(0.02, 0.005),
        policy__approx_kl=once(0.3, 0.002),
        update__skipped=once(4.0, 0.0),
    )
    assert ever(rows) == []


def pathological():
    """kind -> a history that has just this one, and numbers that its sentence must show."""
    return {
        "kl": (healthy(rollout__kl=lambda step: 0.4 * step, rollout__length=lambda step: 20.0), "23.2 nats", "1.2 a token"),
        "entropy": (healthy(rollout__entropy=lambda step: 0.5 * 0.95**step), "0.026 nats", "0.43 at the start"),
        "length": (healthy(rollout__length=lambda step: 16.0 + step / 2), "45 tokens", "from 18"),
        "cut": (healthy(rollout__without_eos=lambda step: min(1.0, step / 50)), "100%", "length limit"),
        "gold": (
            healthy(rollout__gold=lambda step: 0.8 - 0.01 * max(0, step - 20), rollout__score=lambda step: 0.02 * step),
            "0.36 -> 1.16",  # score: means of steps 16-20, the last before the fall, and 56-60
            "0.8 -> 0.42",
        ),
        "second_reward": (
            healthy(rollout__second_reward=lambda step: 1 - step / 20, rollout__score=lambda step: step / 20),
            "0.15 -> 2.9",
            "0.85 -> -1.9",
        ),
        "critic": (healthy(critic__explained_variance=lambda step: -0.5), "-0.5", "5 steps"),
        "engine": (healthy(sync__logprob_gap=lambda step: 0.001 * step), "0.058", "0.003 at the start"),
        "step": (healthy(policy__approx_kl=lambda step: 0.25), "0.25 nats"),
        "skipped": (healthy(update__skipped=lambda step: 2.0 * (step > 55)), "10 optimiser updates", "10 steps"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", pathological())
def test_each_pathology_is_told_alone_and_with_its_numbers(kind):
    rows, *numbers = pathological()[kind]
    found = symptoms(rows)
    assert [symptom.kind for symptom in found] == [kind]
    assert all(number in str(found[0]) for number in numbers), str(found[0])
    assert "It usually means: " in str(found[0]) and "What to do: " in str(found[0])


@pytest.mark.parametrize("kind", pathological())
def test_a_pathology_is_seen_through_noise(kind):
    curves = {name: [row[name] for row in pathological()[kind][0]] for name in healthy(1)[0] | {"rollout/second_reward": 0}
              if name in pathological()[kind][0][0]}  # fmt: skip
    noise = random.Random(1)
    rows = [
        {name: values[index] * (1 if name == "step" else noise.uniform(0.9, 1.1)) for name, values in curves.items()}
        for index in range(60)
    ]
    assert kind in kinds(rows)


def test_gold_that_falls_with_the_score_is_no_over_optimisation():
    falling = healthy(rollout__gold=lambda step: 0.8 - 0.01 * step, rollout__score=lambda step: 1 - 0.02 * step)
    assert kinds(falling) == []


def test_gold_a_little_below_its_best_is_a_plateau():
    rows = healthy(rollout__gold=lambda step: 0.80 if step <= 30 else 0.75, rollout__score=lambda step: step / 20)
    assert kinds(rows) == []
    rows = healthy(rollout__gold=lambda step: 0.80 if step <= 30 else 0.65, rollout__score=lambda step: step / 20)
    assert kinds(rows) == ["gold"]


def test_answers_that_are_meant_to_be_cut_are_not_complained_of():
    rows = healthy(rollout__without_eos=lambda step: 1.0)
    assert kinds(rows, expects_eos=False) == [] and kinds(rows) == ["cut"]


def test_a_new_critic_has_time_to_learn():
    rows = healthy(critic__explained_variance=lambda step: -0.5)
    assert kinds(rows[:14]) == [] and kinds(rows[:15]) == ["critic"]


def test_a_gap_of_rounding_may_grow():
    assert kinds(healthy(sync__logprob_gap=lambda step: 1e-6 * step)) == []


def test_numbers_that_are_missing_or_not_finite_are_no_symptoms():
    assert kinds([]) == []
    assert kinds([{"step": step} for step in range(60)]) == []
    row = dict.fromkeys(healthy(1)[0], math.nan)
    assert kinds([row | {"step": step} for step in range(60)]) == []
    assert kinds(healthy(rollout__kl=lambda step: math.inf)) == ["kl"]


def test_a_symptom_that_lasts_is_told_again_after_some_steps():
    rows = healthy(60, policy__approx_kl=lambda step: 0.5)
    watch = Watch(every=20)
    assert [row["step"] for row in rows if watch.see(row)] == [5, 25, 45]
    assert watch.last is not None and watch.last.kind == "step"


def test_one_that_passes_and_comes_back_at_once_is_told_once():
    rows = healthy(40, policy__approx_kl=lambda step: 0.5 * (step % 12 < 8))
    watch = Watch(every=50)
    assert [row["step"] for row in rows if watch.see(row)] == [5]


@pytest.mark.parametrize("resumed_at", [0, 3, 5, 24, 25, 26, 59])
def test_a_resumed_run_warns_as_the_one_that_was_not_interrupted(resumed_at):
    rows = healthy(60, policy__approx_kl=lambda step: 0.5, rollout__kl=lambda step: 0.4 * step)
    whole = Watch(every=20)
    told = [[str(symptom) for symptom in whole.see(row)] for row in rows]
    resumed = Watch(every=20, history=rows[:resumed_at])
    assert [[str(symptom) for symptom in resumed.see(row)] for row in rows[resumed_at:]] == told[resumed_at:]
    assert resumed.last == whole.last
