"""What rows claim of their texts: labels, and which of two answers is the better one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from alignment.data.finding import Finding, Numbered, Place
from alignment.data.texts import FIELDS, said, text_of


def claims(rows: Sequence[Numbered]) -> list[Finding]:
    """Claims that teach nothing, or that contradict each other."""
    return [*_one_label(rows), *_spellings(rows), *_contradicting(rows), *_equal_answers(rows)]


def _one_label(rows: Sequence[Numbered]) -> list[Finding]:
    """Of answers that are called good or bad (KTO), or of texts (a classifier)."""
    advice = {
        "completion": "KTO learns from good and bad answers: add rows with the other label",
        "text": "a classifier learns to tell labels apart: add rows with another label",
    }
    labels = {field: {str(row["label"]) for _, row in rows if "label" in row and field in row} for field in advice}
    return [Finding("one label only", "error", (), advice[field]) for field in advice if len(labels[field]) == 1]


def _spellings(rows: Sequence[Numbered]) -> list[Finding]:
    """Of labels of texts: a classifier takes each spelling for a class of its own."""
    places: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for number, row in rows:
        if "label" in row and "text" in row:
            places[str(row["label"]).strip().casefold()][str(row["label"])].append(number)
    several = [spelled for spelled in places.values() if len(spelled) > 1]
    rare = [numbers for spelled in several for numbers in sorted(spelled.values(), key=len)[:-1]]
    lines = tuple(number for numbers in rare for number in numbers)
    examples = tuple(" and ".join(map(repr, sorted(spelled))) for spelled in several[:3])
    advice = "each is a class of its own: spell them alike in the file"
    return [Finding("labels spelled in several ways", "warning", lines, advice, examples)] if lines else []


def _contradicting(rows: Sequence[Numbered]) -> list[Finding]:
    """The same two answers ranked both ways, or the same answer called good and bad."""
    made: dict[Hashable, set[str]] = defaultdict(set)
    places: dict[Hashable, list[Place]] = defaultdict(list)
    for number, row in rows:
        if "chosen" in row and "rejected" in row:
            sides = (str(said(row["chosen"])), str(said(row["rejected"])))
            key, claim = (str(row.get("prompt")), *sorted(sides)), sides[0]
        elif "label" in row and any(name in row for name in FIELDS):
            key, claim = text_of(row), str(row["label"])
        else:
            continue
        made[key].add(claim)
        places[key].append(number)
    lines = tuple(number for key, said_of_it in made.items() if len(said_of_it) > 1 for number in places[key])
    advice = "people disagree: keep one side, or leave such rows out"
    return [Finding("rows that contradict each other", "warning", lines, advice)] if lines else []


def _equal_answers(rows: Sequence[Numbered]) -> list[Finding]:
    same = tuple(n for n, row in rows if "chosen" in row and said(row["chosen"]) == said(row.get("rejected")))
    return (
        [Finding("chosen equals rejected", "error", same, "such pairs teach nothing: `align data clean`")]
        if same
        else []
    )
