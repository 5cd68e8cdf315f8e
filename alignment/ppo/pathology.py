"""Known ways in which PPO goes wrong, read from the metrics and said in words: what is seen, what it means, what to do.

Every check compares means over `WINDOW` steps, never single steps: one unlucky batch is no pathology. Nothing here stops a
run or changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

Row = Mapping[str, float]  # `step` and the metrics of one step

WINDOW = 5  # steps that are averaged: a batch's mean score then moves by under half of its usual noise
KL_PER_TOKEN = 0.5  # nats; useful policies stay near 0.1 to 0.3, and one nat is a different language
ENTROPY_SHARE = 0.2  # of the start's; sharpening on a task alone takes it to about 0.6
LENGTH_FACTOR = 2.0  # of the start's; a reward model that likes length shows itself there
CUT_SHARE = 0.95  # of the answers: what is left teaches nobody to stop
NOISE = 4.0  # standard errors by which gold has to fall below its best, among all windows of a run,
FALL_SHARE = 0.1  # and the share of its best or its gain: less is nothing to stop a run for
SCORE_NOISE = 2.0  # standard errors by which the score has to have risen meanwhile
CRITIC_WARMUP = 10  # steps in which a new head may do worse than a constant
GAP_FACTOR, GAP_FLOOR = 3.0, 5e-3  # of the start's; below the floor importance weights differ from 1 by less than 0.5 %
STEP_KL = 0.1  # nats a token within one batch; 0.01 to 0.02 is usual, and a clip of 0.2 holds it well below
SKIPPED_PER_STEP = 0.5  # updates; one bad batch now and then is luck, one at every other step is not


@dataclass(frozen=True)
class Symptom:
    """kind: a name, the same for every appearance of one pathology."""

    kind: str
    seen: str
    means: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.seen}. It usually means: {self.means}. What to do: {self.remedy}."


class Watch:
    """Tells each kind of symptom when it appears and, while it lasts, every so many steps again.

    Its state follows from the rows alone: one built from a resumed run's earlier rows goes on as if nothing had happened.
    expects_eos: False where answers are meant to be cut at the limit.
    """

    def __init__(self, every: int = 50, expects_eos: bool = True, history: Iterable[Row] = ()) -> None:
        self._every, self._expects_eos = every, expects_eos
        self._rows: list[Row] = []
        self._told: dict[str, float] = {}
        self.last: Symptom | None = None
        for row in history:
            self.see(row)

    def see(self, row: Row) -> list[Symptom]:
        """Take in the metrics of one more step; what is to be told now."""
        self._rows.append(row)
        due = [
            symptom
            for symptom in symptoms(self._rows, self._expects_eos)
            if row["step"] - self._told.get(symptom.kind, -math.inf) >= self._every
        ]
        for symptom in due:
            self._told[symptom.kind] = row["step"]
            self.last = symptom
        return due


def symptoms(rows: Sequence[Row], expects_eos: bool = True) -> list[Symptom]:
    """What is wrong at the last of these rows. Metrics that the rows do not have are not looked at."""
    checks = [_kl, _entropy, _length, _over_optimised, _critic, _engine_gap, _step_size, _skipped]
    if expects_eos:
        checks.append(_cut)
    return [symptom for check in checks for symptom in check(rows)]


def _kl(rows: Sequence[Row]) -> Iterator[Symptom]:
    kl, length, start = _now(rows, "rollout/kl"), _now(rows, "rollout/length"), _start(rows, "rollout/kl")
    if kl is not None and length and kl / length > KL_PER_TOKEN:
        before = "" if start is None else f", from {start:.3g} at the start"
        yield Symptom(
            "kl",
            f"KL is running away: {kl:.3g} nats a sequence, {kl / length:.2g} a token{before}",
            "the policy has left the region in which the reward model was trained, and its scores mean little there",
            "raise kl.coefficient or set kl.target, or lower learning_rate; take the model of an earlier step",
        )


def _entropy(rows: Sequence[Row]) -> Iterator[Symptom]:
    now, start = _now(rows, "rollout/entropy"), _start(rows, "rollout/entropy")
    if now is not None and start is not None and now < ENTROPY_SHARE * start:
        yield Symptom(
            "entropy",
            f"entropy has collapsed: {now:.2g} nats a token, from {start:.2g} at the start",
            "the policy says nearly the same to everything and no longer explores",
            "raise kl.coefficient, set entropy_bonus, lower learning_rate or epochs",
        )


def _length(rows: Sequence[Row]) -> Iterator[Symptom]:
    now, start = _now(rows, "rollout/length"), _start(rows, "rollout/length")
    if now is not None and start is not None and now > LENGTH_FACTOR * start:
        yield Symptom(
            "length",
            f"answers are growing: {now:.0f} tokens, from {start:.0f} at the start",
            "the reward model pays for length, or EOS has become unlikely",
            "read the samples; set missing_eos, raise kl.coefficient, or balance lengths in the reward model's pairs",
        )


def _cut(rows: Sequence[Row]) -> Iterator[Symptom]:
    cut = _now(rows, "rollout/without_eos")
    if cut is not None and cut >= CUT_SHARE:
        yield Symptom(
            "cut",
            f"{cut:.0%} of the answers are cut at the length limit",
            "the limit is too short, or the model has never learned to end an answer",
            "raise rollout.max_new_tokens, look whether the SFT data ends with EOS, or set missing_eos: null if it is meant so",
        )


def _over_optimised(rows: Sequence[Row]) -> Iterator[Symptom]:
    for name, word in (("rollout/gold", "the gold score"), ("rollout/second_reward", "the second reward")):
        fall = _fall(rows, name)
        if fall is not None:
            best, now, score_then, score_now = fall
            yield Symptom(
                name.removeprefix("rollout/"),
                f"the reward rises while {word} falls: reward {score_then:.3g} -> {score_now:.3g}, {word} {best:.3g} -> {now:.3g}",
                "the policy exploits errors of the reward model (over-optimisation)",
                "raise kl.coefficient, stop earlier, or train the reward model on answers of the present policy",
            )


def _fall(rows: Sequence[Row], name: str) -> tuple[float, float, float, float] | None:
    """Best and present mean of a metric, and the score at both, if it fell while the score rose, both beyond their noise."""
    pairs = [(row[name], row["rollout/score"]) for row in rows if name in row and "rollout/score" in row]
    pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
    values, scores = [value for value, _ in pairs], [score for _, score in pairs]
    windows = range(len(pairs), WINDOW - 1, -WINDOW)  # ends; the present one first
    if len(windows) < 2:
        return None
    means = [(fmean(values[end - WINDOW : end]), fmean(scores[end - WINDOW : end])) for end in windows]
    (now, score_now), (best, score_then) = means[0], max(means)
    scale = max(abs(best), best - min(mean for mean, _ in means))
    fell = best - now > max(NOISE * _standard_error(values), FALL_SHARE * scale)
    rose = score_now - score_then > SCORE_NOISE * _standard_error(scores)
    return (best, now, score_then, score_now) if fell and rose else None


def _critic(rows: Sequence[Row]) -> Iterator[Symptom]:
    recent = _values(rows[-WINDOW:], "critic/explained_variance")
    if len(rows) >= CRITIC_WARMUP + WINDOW and len(recent) == WINDOW and max(recent) < 0:
        yield Symptom(
            "critic",
            f"the critic explains less than nothing: explained variance {fmean(recent):.2g} over {WINDOW} steps",
            "its values are worse than a constant, so advantages are mostly noise",
            "raise critic.learning_rate, set critic.warmup_steps, or critic.init: reward",
        )


def _engine_gap(rows: Sequence[Row]) -> Iterator[Symptom]:
    now, start = _now(rows, "sync/logprob_gap"), _start(rows, "sync/logprob_gap")
    if now is not None and start is not None and now > max(GAP_FACTOR * start, GAP_FLOOR):
        yield Symptom(
            "engine",
            f"engine and trainer drift apart: log-probabilities differ by {now:.2g} on average, from {start:.2g} at the start",
            "the engine lacks some of the new weights, or weights have grown beyond what its precision holds",
            "set rollout.engine: hf to compare, or precision: fp32; keep importance on until it is found",
        )


def _step_size(rows: Sequence[Row]) -> Iterator[Symptom]:
    now = _now(rows, "policy/approx_kl")
    if now is not None and now > STEP_KL:
        yield Symptom(
            "step",
            f"updates are too large: the policy moves by {now:.2g} nats a token within one batch",
            "most ratios are clipped, and what is learned from the batch no longer describes the policy",
            "lower learning_rate or epochs, or set early_stop_kl",
        )


def _skipped(rows: Sequence[Row]) -> Iterator[Symptom]:
    now = _now(rows, "update/skipped", 2 * WINDOW)
    if now is not None and now > SKIPPED_PER_STEP:
        yield Symptom(
            "skipped",
            f"{now * 2 * WINDOW:.0f} optimiser updates were skipped in the last {2 * WINDOW} steps",
            "losses or gradients are not finite, or larger than guard.gradient_norm",
            "lower learning_rate, use precision: fp32, or raise guard.gradient_norm if it is far below the usual norm",
        )


def _now(rows: Sequence[Row], name: str, window: int = WINDOW) -> float | None:
    values = _values(rows[-window:], name)
    return fmean(values) if len(values) == window else None


def _start(rows: Sequence[Row], name: str) -> float | None:
    """Mean of the first steps; None before the present window has left them."""
    return _now(rows[:WINDOW], name) if len(rows) >= 2 * WINDOW else None


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row and not math.isnan(row[name])]


def _standard_error(values: Sequence[float]) -> float:
    """Of the difference of two windows' means, from how neighbouring steps differ: a trend hardly enters it."""
    differences = [after - before for before, after in pairwise(values)]
    # a difference of two steps has twice a step's variance, that of two means twice a step's over WINDOW
    return math.sqrt(fmean(difference**2 for difference in differences) / WINDOW)
