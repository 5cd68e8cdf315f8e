"""How numbers and verdicts read, the same in the terminal and in the report.

Scores are printed in points, hundredths of the score; bits per byte as they are. Differences are raw (new - reference).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.comparison import ArmComparison, TaskComparison
from eval.frontier import Matched
from eval.results import GROUP

MINUS, BITS = "−", "bits_per_byte"


def scale(metric: str) -> float:
    return 1.0 if metric == BITS else 100.0


def unit(metric: str) -> str:
    return "bits per byte" if metric == BITS else "points"


def value(metric: str, number: float | None) -> str:
    """61.5 for an accuracy of .615, 1.103 for bits per byte."""
    return fixed(None if number is None else number * scale(metric), _digits(metric))


def signed(metric: str, number: float | None) -> str:
    if number is None:
        return "–"
    text = f"{number * scale(metric):+.{_digits(metric)}f}"
    return (text[1:] if not text.strip("+-0.") else text).replace("-", MINUS)


def nats(number: float) -> str:
    """A log-likelihood difference."""
    return f"{number:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00").replace("-", MINUS)


def interval(metric: str, bounds: tuple[float, float]) -> str:
    return f"{value(metric, bounds[0])} to {value(metric, bounds[1])}"


def p_value(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def task_name(task: str) -> str:
    return f"all {task.removeprefix(GROUP)}" if task.startswith(GROUP) else task


def basis(row: TaskComparison) -> str:
    """3 seeds, 8 tasks."""
    return f"{count(row.n_seeds, 'seed')}, {count(len(row.tasks), 'task')}"


def worst_notes(arms: Sequence[ArmComparison]) -> list[str]:
    """For roles whose tasks cannot be averaged: that a table shows the worst of them, and how to read it."""
    notes = {}
    for arm in arms:
        for role in ("target", "retained"):
            row = arm.shown(role)
            if row is not None and arm.headline(role) is None:
                sense = "" if row.higher_is_better else ": more is worse"
                tasks = ", ".join(other.task for other in arm.rows if other.role == role)
                notes[f"{role}: of {tasks} the one that lost most, in {unit(row.metric)}{sense}"] = None
    return list(notes)


def sentence(arm: ArmComparison, from_base: bool = False) -> str:
    """One sentence: what `new` gained over `reference`, and what it forgot. from_base: the reference is where
    training began."""
    target, retained = arm.headline("target"), arm.headline("retained")
    parts = [_target_clause(arm, target)] if target else []
    if retained:
        parts.append(_retained_clause(arm, retained, from_base, target))
    text = (
        " ".join(parts).replace(" ; ", "; ")
        if parts
        else f"{arm.new} against {arm.reference}: see the tasks one by one"
    )
    alone = [row.task for row in arm.rows if row.verdict.word == "forgot"]
    if alone and (not retained or retained.verdict.word != "forgot"):
        text += f". Forgotten, looked at alone: {', '.join(alone)}"
    return f"{text[0].upper() if text.startswith('whether') else text[0]}{text[1:]}."


def _digits(metric: str) -> int:
    return 3 if metric == BITS else 1


def _target_clause(arm: ArmComparison, row: TaskComparison) -> str:
    size, range_ = value(row.metric, abs(row.delta)), interval(row.metric, row.estimate.ci95)
    amount = f"{size} {unit(row.metric)}"
    match row.verdict.word:
        case "gained":
            return f"{arm.new} gained {amount} on the target over {arm.reference} ({range_})"
        case "lost":
            return f"{arm.new} lost {amount} on the target against {arm.reference} ({range_})"
        case "unchanged":
            return (
                f"{arm.new} does as well on the target as {arm.reference} ({signed(row.metric, row.delta)}, {range_})"
            )
    return f"whether {arm.new} does better on the target than {arm.reference} is open ({signed(row.metric, row.delta)}, {range_})"


def _retained_clause(arm: ArmComparison, row: TaskComparison, from_base: bool, target: TaskComparison | None) -> str:
    """target: of the clause that this one goes on from."""
    more = "" if from_base else "more "
    numbers = f"{signed(row.metric, row.delta)}, {interval(row.metric, row.estimate.ci95)}; {basis(row)}"
    match row.verdict.word, row.verdict.note:
        case "retained", "small loss":
            text = f"forgot a little {more}of the old skills, less than the margin ({numbers})"
        case "retained", "gain":
            text = f"{'got better at' if from_base else 'kept more of'} the old skills ({numbers})"
        case "retained", _:
            text = f"{'kept' if from_base else 'forgot no more of'} the old skills ({numbers})"
        case "forgot", _:
            text = f"forgot {more}of the old skills ({numbers})"
        case _:
            text = f"whether it forgot {more}of the old skills is open ({numbers})"
    if target is not None:
        contrary = (row.verdict.word == "forgot") != (target.verdict.word == "lost")
        joint = "; " if row.verdict.word == "inconclusive" else " but " if contrary else " and "
        return f"{joint}{text}: {row.verdict}".removeprefix(" ")
    return f"{'' if row.verdict.word == 'inconclusive' else arm.new + ' '}{text}: {row.verdict}"


def at_equal_gain(matched: Matched, n_seeds: int) -> str:
    """One sentence: which of two arms forgets less where both gain the same, and for whom that holds."""
    a, b = matched.reference, matched.new
    if matched.overlap is None or matched.difference is None or matched.ci is None or matched.p_adjusted is None:
        return f"{b} and {a}: no overlap, no gain is reached by both."
    where = f"over gains of {interval('acc', matched.overlap)} points"
    scope = count(n_seeds, "seed") if n_seeds > 1 else "these checkpoints only"
    numbers = f"({signed('acc', matched.difference)} points, {interval('acc', matched.ci)}; {scope})"
    if matched.p_adjusted >= 0.05:
        return f"At equal gain, whether {b} forgets less than {a} is open {numbers}, {where}."
    return f"At equal gain {b} forgets {'less' if matched.difference > 0 else 'more'} than {a} {numbers}, {where}."


def notes(arms: Sequence[ArmComparison], more: Sequence[str] = ()) -> list[str]:
    """Every warning once: the recipe's own first, then those of the comparisons."""
    return list(dict.fromkeys([*more, *(warning for arm in arms for warning in arm.warnings)]))


def number(cell: str | float | None) -> str:
    """Any cell of a figure's table: about three digits that matter, text as it is, a dash for nothing."""
    match cell:
        case None:
            return "–"
        case str():
            return cell
        case int():
            return f"{cell:,}".replace("-", MINUS)
        case 0.0:
            return "0"
    digits = 0 if abs(cell) >= 1000 else 1 if abs(cell) >= 100 else 2 if abs(cell) >= 1 else 3
    return f"{cell:,.{digits}f}".replace("-", MINUS)


def fixed(number: float | None, digits: int = 2) -> str:
    """A number that is no score: a parameter, a distance."""
    return (
        "–"
        if number is None or not math.isfinite(number)
        else f"{round(number, digits) + 0.0:.{digits}f}".replace("-", MINUS)
    )
