"""What is wrong with a data set, and what to do about it: the checks of `align data check`. Pure functions on rows, no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from alignment.data.claims import claims
from alignment.data.finding import Finding, Numbered, Place, Severity
from alignment.data.hints import PERSONAL, SECRETS, badly_decoded, hinted
from alignment.data.stream import column_names, what_is_wrong
from alignment.data.texts import Row, grams, said, text_of, whole

_FEW = {"preferences": 1000, "transcripts": 1000, "message pairs": 1000, "two answers": 1000, "labelled answers": 500}
_FEW_DEMONSTRATIONS = 200
_PERMUTATIONS, _SIMILAR, _SHINGLE = 64, 0.8, 5
RUN = 13  # words in a row that two texts do not share by chance
_OWN = (
    ("prompt", "chosen", "rejected"),
    ("prompt", "completion", "label"),
    ("prompt", "completion"),
    ("messages",),
    ("text", "label"),
    ("text",),
    ("prompt",),
)


@dataclass(frozen=True)
class Inspection:
    """lengths: of every row, in the units of `unit`. findings: worst first."""

    source: str
    format: str
    rows: int
    bad: Sequence[str]
    lengths: Sequence[int]
    unit: Literal["tokens", "words"]
    findings: Sequence[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.bad) or any(finding.severity == "error" for finding in self.findings)


def inspect(
    rows: Sequence[Numbered], shape: str, count: Callable[[str], int] | None, max_length: int | None
) -> tuple[list[int], list[Finding]]:
    """Lengths of the rows, and all that is to be said about them. count: tokens of a text; None = words are counted."""
    texts = [(number, text_of(row)) for number, row in rows]
    lengths = [count(text) if count is not None else len(text.split()) for _, text in texts]
    findings = [
        *_too_few(shape, len(rows)),
        *_unusable(rows),
        *_blank(rows),
        *_roles(rows),
        *_repeated(rows),
        *claims(rows),
        *_over_long(texts, lengths, max_length),
        *_patterns(
            "secrets", SECRETS, texts, "error", "revoke what they open; `align data clean --redact` takes them out"
        ),
        *_patterns("personal data", PERSONAL, texts, "warning", "`align data clean --redact` takes them out"),
        *_encoding(texts),
        *_near_duplicates(texts),
    ]
    order = ("error", "warning", "note")
    return lengths, sorted(findings, key=lambda finding: order.index(finding.severity))


def overlap(rows: Sequence[Numbered], other: Iterable[str], size: int = RUN) -> Finding | None:
    """Rows that share a run of `size` words (13 as in Brown et al. 2020) with texts that they must not know: a validation set, an
    evaluation task. Of rows and texts that are shorter, the whole has to be the same, or the whole prompt."""
    theirs = {gram for text in other for gram in grams(text, size)}
    found = [
        (number, shared)
        for number, row in rows
        if (shared := next((gram for gram in _own_grams(row, size) if gram in theirs), None)) is not None
    ]
    if not found:
        return None
    examples = tuple(f"line {number}: “{shared}”" for number, shared in found[:3])
    advice = "leave these rows out (`align data clean --against ...`): the measurement would test memory"
    return Finding("overlap", "error", tuple(number for number, _ in found), advice, examples)


def _own_grams(row: Row, size: int) -> Iterable[str]:
    yield from grams(text_of(row), size)
    if "prompt" in row:
        yield from grams(" ".join(said(row["prompt"])), size)


def _too_few(shape: str, rows: int) -> list[Finding]:
    wanted = _FEW.get(shape, _FEW_DEMONSTRATIONS)
    if rows >= wanted:
        return []
    return [Finding("few rows", "note", (), f"{rows:,} are few to learn from; {wanted:,} is a sensible least")]


def fields_of(rows: Sequence[Numbered]) -> tuple[str, ...] | None:
    """Which of our own fields the rows hold: those that most of them have, else those of the first that has some."""
    having = {names: [number for number, row in rows if all(name in row for name in names)] for names in _OWN}
    most = (names for names, places in having.items() if 2 * len(places) > len(rows))
    first = (names for _, row in rows for names in _OWN if all(name in row for name in names))
    return next(most, None) or next(first, None)


def _unusable(rows: Sequence[Numbered]) -> list[Finding]:
    """Rows that lack a field, or hold nothing in it."""
    fields = fields_of(rows)
    if rows and fields is None:
        advice = "say which columns hold what, for example `--column prompt=question --column completion=reply`"
        examples = (f"they are: {column_names(rows[0][1])}",)
        return [Finding("unknown columns", "error", tuple(number for number, _ in rows), advice, examples)]
    wrong = [(number, problem) for number, row in rows if (problem := what_is_wrong(row, fields or ()))]
    if not wrong:
        return []
    examples = tuple(f"line {number}: {problem}" for number, problem in wrong[:3])
    advice = "`align data clean` leaves them out"
    return [Finding("unusable rows", "error", tuple(number for number, _ in wrong), advice, examples)]


def _roles(rows: Sequence[Numbered]) -> list[Finding]:
    """Conversations in which a turn seems to be missing, and those that hold nothing to learn."""
    odd: list[tuple[Place, str]] = []
    silent: list[Place] = []
    for number, row in rows:
        messages = row.get("messages", row.get("prompt"))
        if not isinstance(messages, list):
            continue
        roles = [str(message.get("role")) for message in messages if isinstance(message, dict)]
        if problem := _role_problem(roles):
            odd.append((number, problem))
        if nothing_to_learn(row):
            silent.append(number)
    findings = []
    if odd:
        examples = tuple(f"line {number}: {problem}" for number, problem in odd[:3])
        advice = "look whether turns are missing; most chat templates refuse such conversations"
        findings.append(Finding("order of roles", "warning", tuple(number for number, _ in odd), advice, examples))
    if silent:
        findings.append(
            Finding("no answer of the assistant", "error", tuple(silent), "there is nothing to learn: drop them")
        )
    return findings


def nothing_to_learn(row: Row) -> bool:
    """A conversation in which the assistant says nothing."""
    messages = row.get("messages")
    return isinstance(messages, list) and not any(
        isinstance(m, dict) and m.get("role") == "assistant" for m in messages
    )


def _blank(rows: Sequence[Numbered]) -> list[Finding]:
    lines = tuple(number for number, row in rows if blank_field(row))
    advice = "they teach nothing, or to stop at once: `align data clean` leaves them out"
    return [Finding("texts of white space only", "warning", lines, advice)] if lines else []


def blank_field(row: Row) -> str | None:
    """The field to be learned from, if one holds white space only."""
    fields = ("completion", "chosen", "rejected", "text", "messages")
    return next((name for name in fields if (texts := _learned(row.get(name))) and not "".join(texts).strip()), None)


def _learned(value: Any) -> list[str]:
    """The texts of a field that are not empty; of messages, the assistant's."""
    if isinstance(value, list):
        value = [turn for turn in value if isinstance(turn, dict) and turn.get("role") == "assistant"]
    return [text for text in said(value) if text]


def _role_problem(roles: Sequence[str]) -> str | None:
    if unknown := set(roles) - {"system", "developer", "user", "assistant", "tool"}:
        return f"a turn by {min(unknown)!r}"
    if "system" in roles[1:]:
        return "a system message after the first place"
    speakers = [role for role in roles if role in ("user", "assistant")]
    if speakers and speakers[0] != "user":
        return "the assistant speaks first"
    if "tool" not in roles and any(left == right for left, right in pairwise(speakers)):
        return "two turns of the same speaker in a row"
    return None


def _repeated(rows: Sequence[Numbered]) -> list[Finding]:
    whole, prompts = defaultdict(list), defaultdict(list)
    for number, row in rows:
        whole[what_it_says(row)].append(number)
        if "prompt" in row:
            prompts["\n".join(said(row["prompt"]))].append(number)
    again = [number for numbers in whole.values() for number in numbers[1:]]
    repeated = set(again)
    several = [number for numbers in prompts.values() for number in numbers[1:] if number not in repeated]
    findings = []
    if again:
        findings.append(Finding("duplicates", "warning", tuple(again), "`align data clean` keeps the first of each"))
    if several:
        advice = "several answers to a prompt are fine, if all of them sit in one split (`align data split` sees to it)"
        findings.append(Finding("prompts that come again", "note", tuple(several), advice))
    return findings


def what_it_says(row: Row) -> Hashable:
    """What makes two rows the same: their texts, and the label where there is one."""
    return whole(row), str(row.get("label"))


def _over_long(texts: Sequence[tuple[Place, str]], lengths: Sequence[int], limit: int | None) -> list[Finding]:
    long = tuple(n for (n, _), length in zip(texts, lengths, strict=True) if limit is not None and length > limit)
    if not long:
        return []
    return [Finding("over-long rows", "warning", long, f"longer than {limit}: shorten them, or raise max_length")]


def _patterns(
    kind: str, patterns: dict[str, str], texts: Sequence[tuple[Place, str]], severity: Severity, advice: str
) -> list[Finding]:
    found = [(number, names) for number, text in texts if (names := list(hinted(text, patterns)))]
    if not found:
        return []
    kinds = Counter(name for _, names in found for name in names)
    examples = tuple(f"{count} with {name}" for name, count in kinds.most_common())  # never the secret itself
    return [Finding(f"hints of {kind}", severity, tuple(number for number, _ in found), advice, examples)]


def _encoding(texts: Sequence[tuple[Place, str]]) -> list[Finding]:
    lines = tuple(number for number, text in texts if badly_decoded(text))
    advice = "text that was decoded wrongly, or control characters: fetch it again as UTF-8"
    return [Finding("encoding trouble", "warning", lines, advice)] if lines else []


def _near_duplicates(texts: Sequence[tuple[Place, str]]) -> list[Finding]:
    """Rows of which four fifths of the runs of five words are those of an earlier row, by MinHash (Broder 1997)."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=_SIMILAR, num_perm=_PERMUTATIONS)
    found: list[tuple[Place, Place]] = []
    seen: set[str] = set()
    for place, (number, text) in enumerate(texts):
        if text in seen:
            continue  # told as a duplicate already
        seen.add(text)
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([gram.encode() for gram in grams(text, _SHINGLE)])
        if alike := index.query(sketch):
            found.append((number, texts[min(int(str(other)) for other in alike)][0]))
        index.insert(str(place), sketch, check_duplication=False)
    if not found:
        return []
    examples = tuple(f"line {number} is much like line {other}" for number, other in found[:3])
    advice = "look at them: near duplicates count their content several times"
    return [Finding("near duplicates", "note", tuple(number for number, _ in found), advice, examples)]
