"""What is wrong with a data set, and what to do about it: the checks of `align data check`. Pure functions on rows, no torch."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = dict[str, Any]
Numbered = tuple[int, Row]
Severity = Literal["error", "warning", "note"]

_SECRETS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "cloud access key": r"\bAKIA[0-9A-Z]{16}\b",
    "access token": r"\b(?:ghp|gho|ghs|github_pat|glpat|xox[bap])[-_][A-Za-z0-9_-]{16,}\b",
    "API key": r"\bsk-[A-Za-z0-9_-]{20,}\b",
    "hub token": r"\bhf_[A-Za-z0-9]{30,}\b",
}
_PERSONAL = {
    "e-mail address": r"\b[\w.+-]+@[\w-]+\.[\w.-]*[A-Za-z]{2,}\b",
    "phone number": r"(?<![\w.])\+\d{1,3}[ -]?\(?\d{2,4}\)?(?:[ -]?\d{2,4}){2,4}(?!\w)",
    "IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b",
}
_MOJIBAKE = re.compile("\ufffd|Ã[\u0080-\u00bf©¨¤¶¼]|â€[™œ\u009d\u009c“”]")
_FEW = {"preferences": 1000, "transcripts": 1000, "message pairs": 1000, "two answers": 1000, "labelled answers": 500}
_FEW_DEMONSTRATIONS = 200
_PERMUTATIONS, _SIMILAR, _SHINGLE = 64, 0.8, 5


@dataclass(frozen=True)
class Finding:
    """kind: what it is about. lines: of the rows concerned. examples: a few of them in words. advice: what to do."""

    kind: str
    severity: Severity
    lines: tuple[int, ...]
    advice: str
    examples: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.lines)


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
        *_repeated(rows),
        *_equal_answers(rows),
        *_over_long(texts, lengths, max_length),
        *_patterns("secrets", _SECRETS, texts, "error", "remove them, and revoke what they open"),
        *_patterns("personal data", _PERSONAL, texts, "warning", "remove or replace them before training"),
        *_encoding(texts),
        *_near_duplicates(texts),
    ]
    order = ("error", "warning", "note")
    return lengths, sorted(findings, key=lambda finding: order.index(finding.severity))


def text_of(row: Row) -> str:
    """Everything that a row says, its turns in lines of their own."""
    parts = [row[name] for name in ("prompt", "completion", "messages", "chosen", "rejected", "text") if name in row]
    return "\n".join(said for part in parts for said in _said(part))


def _said(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    return [str(message.get("content", "")) for message in value if isinstance(message, dict)]


def overlap(rows: Sequence[Numbered], other: Iterable[str], size: int = 13) -> Finding | None:
    """Rows that share a run of `size` words (13 as in Brown et al. 2020) with texts that they must not know: a validation set, an
    evaluation task. A shorter text counts as a whole."""
    grams = {gram for text in other for gram in _grams(text, size)}
    found = [
        (number, shared)
        for number, row in rows
        if (shared := next((g for g in _grams(text_of(row), size) if g in grams), None)) is not None
    ]
    if not found:
        return None
    examples = tuple(f"line {number}: “{shared}”" for number, shared in found[:3])
    advice = "leave these rows out (`align data clean --against ...`): the measurement would test memory"
    return Finding("overlap", "error", tuple(number for number, _ in found), advice, examples)


def _grams(text: str, size: int) -> Iterable[str]:
    """Runs of words, case and punctuation aside; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    if 0 < len(words) < size:
        yield " ".join(words)
    for start in range(len(words) - size + 1):
        yield " ".join(words[start : start + size])


def _too_few(shape: str, rows: int) -> list[Finding]:
    wanted = _FEW.get(shape, _FEW_DEMONSTRATIONS)
    if rows >= wanted:
        return []
    advice = f"{rows} rows are few for what {shape or 'such rows'} train; {wanted} is a sensible least"
    return [Finding("few rows", "note", (), advice)]


def _repeated(rows: Sequence[Numbered]) -> list[Finding]:
    whole, prompts = defaultdict(list), defaultdict(list)
    for number, row in rows:
        whole[text_of(row)].append(number)
        if "prompt" in row:
            prompts["\n".join(_said(row["prompt"]))].append(number)
    findings = []
    if again := [number for numbers in whole.values() for number in numbers[1:]]:
        findings.append(Finding("duplicates", "warning", tuple(again), "`align data clean` keeps the first of each"))
    several = [number for numbers in prompts.values() for number in numbers[1:] if number not in set(again)]
    if several:
        advice = (
            "a prompt with several answers is fine, if all of them sit in one split (`align data split` sees to it)"
        )
        findings.append(Finding("prompts that come again", "note", tuple(several), advice))
    return findings


def _equal_answers(rows: Sequence[Numbered]) -> list[Finding]:
    same = tuple(n for n, row in rows if "chosen" in row and _said(row["chosen"]) == _said(row.get("rejected")))
    return (
        [Finding("chosen equals rejected", "error", same, "such pairs teach nothing: `align data clean`")]
        if same
        else []
    )


def _over_long(texts: Sequence[tuple[int, str]], lengths: Sequence[int], limit: int | None) -> list[Finding]:
    long = tuple(n for (n, _), length in zip(texts, lengths, strict=True) if limit is not None and length > limit)
    if not long:
        return []
    return [Finding("over-long rows", "warning", long, f"longer than {limit}: shorten them, or raise max_length")]


def _patterns(
    kind: str, patterns: dict[str, str], texts: Sequence[tuple[int, str]], severity: Severity, advice: str
) -> list[Finding]:
    found: dict[int, str] = {}
    kinds: Counter[str] = Counter()
    for number, text in texts:
        for name, pattern in patterns.items():
            if re.search(pattern, text):
                found.setdefault(number, name)
                kinds[name] += 1
    if not found:
        return []
    examples = tuple(f"{count} with {name}" for name, count in kinds.most_common())  # never the secret itself
    return [Finding(f"hints of {kind}", severity, tuple(found), advice, examples)]


def _encoding(texts: Sequence[tuple[int, str]]) -> list[Finding]:
    def troubled(text: str) -> bool:
        control = any(unicodedata.category(c) == "Cc" and c not in "\n\r\t" for c in text)
        return control or _MOJIBAKE.search(text) is not None

    lines = tuple(number for number, text in texts if troubled(text))
    advice = "text that was decoded wrongly, or control characters: fetch it again as UTF-8"
    return [Finding("encoding trouble", "warning", lines, advice)] if lines else []


def _near_duplicates(texts: Sequence[tuple[int, str]]) -> list[Finding]:
    """Rows of which four fifths of the runs of five words are those of an earlier row, by MinHash (Broder 1997)."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=_SIMILAR, num_perm=_PERMUTATIONS)
    found: list[tuple[int, int]] = []
    seen: set[str] = set()
    for number, text in texts:
        if text in seen:
            continue  # told as a duplicate already
        seen.add(text)
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([gram.encode() for gram in _grams(text, _SHINGLE)])
        if alike := index.query(sketch):
            found.append((number, min(int(str(other)) for other in alike)))
        index.insert(str(number), sketch, check_duplication=False)
    if not found:
        return []
    examples = tuple(f"line {number} is much like line {other}" for number, other in found[:3])
    advice = "look at them: near duplicates count their content several times"
    return [Finding("near duplicates", "note", tuple(number for number, _ in found), advice, examples)]
