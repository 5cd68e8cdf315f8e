"""From outcomes to figures: medians, ratios, and the file that is committed."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.core.errors import SuiteError
from alignment.core.provenance import code_commit, cores, hardware, versions
from benchmarks.ppo.cases import FULL, HERE, Case
from benchmarks.ppo.limit import optimise_flop
from benchmarks.ppo.outcome import Outcome, medians
from benchmarks.ppo.sides import SIDES, TRL, Side

RESULTS = HERE / "results.json"
_SAME = 0.05  # relative difference of mean lengths that is small
_DEVIATIONS = 4.0  # a larger one may be chance, up to so many standard errors

Outcomes = Mapping[Side, Sequence[Outcome]]


def case_results(case: Case, outcomes: Outcomes) -> dict[str, Any]:
    """Medians over all steps of all rounds for each side, the ratio of their whole steps, and that of every round.

    Raises SuiteError if the sides did not do the same work.
    """
    require_same_work(case, outcomes)
    sides = {}
    for side in SIDES:
        steps = [step for outcome in outcomes[side] for step in outcome.steps]
        peaks = [outcome.peak_mib for outcome in outcomes[side]]
        mean = statistics.fmean(step["length"] for step in steps)
        sides[side] = medians(steps) | {"length": mean, "peak_mib": statistics.median(peaks), "steps": len(steps)}
    rounds = [
        medians(peer.steps)["step"] / medians(ours.steps)["step"]
        for ours, peer in zip(outcomes["ours"], outcomes["peer"], strict=True)
    ]
    return sides | {
        "title": case.workload.title,
        "precision": case.precision,
        "ratio": sides["peer"]["step"] / sides["ours"]["step"],
        "ratio_by_round": rounds,
    }


def require_same_work(case: Case, outcomes: Outcomes) -> None:
    """Raises SuiteError unless on both sides every optimiser step was made, weights moved, and answers were as long."""
    updates = case.workload.epochs * case.workload.minibatches
    for side in SIDES:
        for outcome in outcomes[side]:
            if outcome.updates != updates or not outcome.changed:
                raise SuiteError(
                    f"{case.name}: {side}",
                    f"{outcome.updates:g} optimiser steps a step, weights {'' if outcome.changed else 'not '}changed",
                    f"{updates}, and changed weights",
                    "look for gradient accumulation that leaves steps out",
                )
    lengths = {side: [step["length"] for outcome in outcomes[side] for step in outcome.steps] for side in SIDES}
    ours, peer = (statistics.fmean(lengths[side]) for side in SIDES)
    errors = [statistics.pvariance(lengths[side]) / len(lengths[side]) for side in SIDES]
    if abs(ours - peer) > max(_SAME * peer, _DEVIATIONS * sum(errors) ** 0.5):
        raise SuiteError(
            case.name,
            f"answers have {ours:.1f} tokens on our side and {peer:.1f} on the peer's",
            "as many on both",
            "lower LEARNING_RATE, or look for different sampling",
        )


def figures(cases: Mapping[str, Mapping[str, Any]], limits: Mapping[str, float]) -> dict[str, float]:
    """The numbers that goals are set on. Ratios are seconds of a whole step, trl's over ours."""
    lab, full = cases["lab_fp32"], cases["full_fp32"]["ours"]
    reached = optimise_flop(FULL, full["length"]) / full["optimise"]
    numbers = {
        "ratio_fp32": lab["ratio"],
        "ratio_bf16": cases["lab_bf16"]["ratio"],
        "ratio_bf16_over_fp32": lab["peer"]["step"] / cases["lab_bf16"]["ours"]["step"],
        "ratio_long_tail_fp32": cases["long_tail_fp32"]["ratio"],
        "ratio_full_fp32": cases["full_fp32"]["ratio"],
        "ratio_full_bf16": cases["full_bf16"]["ratio"],
        "peak_memory_ratio": lab["ours"]["peak_mib"] / lab["peer"]["peak_mib"],
        "matmul_share": reached / limits["fp32"],
    }
    return {name: round(number, 3) for name, number in numbers.items()}


def provenance() -> dict[str, Any]:
    """Commit, date, machine and versions."""
    return {
        "commit": code_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": hardware(),
        "threads": cores(),
        "versions": versions() | {"trl (the peer)": TRL},
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Numbers to six digits: more are noise."""
    path.write_text(json.dumps(_rounded(value), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
