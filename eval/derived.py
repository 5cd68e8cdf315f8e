"""What a report derives beside the comparisons of arms: by its name in `results.json`, entries that have `as_json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.classification import classifications, f1_changes
from eval.divergence_arms import arm_divergences
from eval.formats import format_readings
from eval.frontier import frontier
from eval.overoptimisation import overoptimisation
from eval.quality import quality, quality_changes
from eval.relearning import measure_relearning
from eval.results import ReportInput
from eval.reward_models import reward_models
from eval.sequence import measure_sequences
from eval.win_summary import MARGIN, win_rates


def derived(report: ReportInput) -> dict[str, Sequence[Any]]:
    """Only what the recipe declares is computed; divergences are there where the evaluations measured them."""
    declared = report.comparison
    found: dict[str, Sequence[Any]] = {}
    if declared.frontier is not None:
        found["frontier"] = [frontier(declared.frontier, report.models, report.roles)]
    if declared.sequences:
        found["sequences"] = measure_sequences(report)
    if declared.relearning:
        found["relearning"] = measure_relearning(report)
    if divergences := arm_divergences(report.models):
        found["divergence"] = divergences
    if courses := overoptimisation(report.models):
        found["overoptimisation"] = courses
    if report.win_rates:
        found["win_rates"] = win_rates(report.win_rates, declared.margin.get("win_rate", MARGIN))
    if rewards := reward_models(report.reward_models):
        found["reward_models"] = rewards
    if readings := format_readings(report):
        found["formats"] = readings
    if classified := classifications(report):
        found |= {"classification": classified, "f1_changes": f1_changes(report)}
    if measured := quality(report):
        found |= {"quality": measured, "quality_changes": quality_changes(report)}
    return found
