"""Rows dropped or repaired by declared rules, each with its reason; and splits in which a prompt sits on one side only. No torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from alignment.data.finding import Numbered, Place
from alignment.data.hints import PERSONAL, SECRETS, hinted, redacted
from alignment.data.inspection import blank_field, fields_of, nothing_to_learn, overlap, what_it_says
from alignment.data.stream import SPLITS, what_is_wrong
from alignment.data.texts import Row, beginning, rewritten, text_of


@dataclass(frozen=True)
class Rules:
    """Which rows go, and what is repaired in the others. Rows that hold nothing to learn go in any case.

    longest: in tokens or words, as `count` counts. against: texts that must not come up. strip: white space at the ends of texts
    is taken away. redact: secrets and personal data are replaced by what they are, such as `[e-mail address]`.
    """

    duplicates: bool = True
    equal_answers: bool = True
    longest: int | None = None
    against: Sequence[str] = ()
    strip: bool = False
    redact: bool = False


@dataclass(frozen=True)
class Remark:
    """What was done about a row."""

    line: Place
    reason: str


@dataclass(frozen=True)
class Cleaned:
    """rows: those that stay, in order. dropped, repaired: the others, and those that were changed."""

    rows: list[Row]
    dropped: list[Remark]
    repaired: list[Remark]


def clean(rows: Sequence[Numbered], rules: Rules, count: Callable[[str], int]) -> Cleaned:
    """First rows are repaired, then judged."""
    made = [(number, *_repaired(row, rules)) for number, row in rows]
    rows = [(number, row) for number, row, _ in made]
    shared = overlap(rows, rules.against) if rules.against else None
    judge = _Judge(rules, count, set(shared.lines) if shared else set(), fields_of(rows) or ())
    kept = Cleaned([], [], [])
    for number, row, repairs in made:
        if reason := judge.why_not(number, row):
            kept.dropped.append(Remark(number, reason))
            continue
        kept.rows.append(row)
        if repairs:
            kept.repaired.append(Remark(number, repairs))
    return kept


def _repaired(row: Row, rules: Rules) -> tuple[Row, str]:
    """The row as the rules want it, and what was done to it."""
    made, done = row, []
    if rules.redact and (names := list(hinted(text_of(row), SECRETS | PERSONAL))):
        made = rewritten(made, redacted)
        done += names
    if rules.strip:
        stripped = rewritten(made, str.strip)
        done += ["white space at an end"] * (stripped != made)
        made = stripped
    return made, ", ".join(done)


@dataclass
class _Judge:
    rules: Rules
    count: Callable[[str], int]
    overlapping: set[Place]
    fields: Sequence[str]

    def __post_init__(self) -> None:
        self._first: dict[Hashable, Place] = {}

    def why_not(self, number: Place, row: Row) -> str | None:
        """Why a row goes; None for one that stays, which later rows are held against."""
        if problem := what_is_wrong(row, self.fields):
            return problem
        if field := blank_field(row):
            return f"{field} holds white space only"
        if nothing_to_learn(row):
            return "no answer of the assistant"
        if self.rules.equal_answers and "chosen" in row and row["chosen"] == row.get("rejected"):
            return "chosen equals rejected"
        if self.rules.longest is not None and (length := self.count(text_of(row))) > self.rules.longest:
            return f"{length} long, more than {self.rules.longest}"
        if number in self.overlapping:
            return "overlaps with what it must not"
        said = what_it_says(row)
        if self.rules.duplicates and said in self._first:
            return f"the same as line {self._first[said]}"
        self._first.setdefault(said, number)
        return None


def split(rows: Iterable[Row], shares: tuple[float, float, float]) -> dict[str, list[Row]]:
    """train, validation and test by a hash of the prompt (of a conversation up to its first answer, of any other row as a whole):
    the same prompt always lands on the same side, whatever the order, the number or the file of the rows. shares: they sum to 1."""
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        place = zlib.crc32(f"split|{beginning(row)}".encode()) / 2**32
        name = "train" if place < shares[0] else "validation" if place < shares[0] + shares[1] else "test"
        parts[name].append(row)
    return parts
