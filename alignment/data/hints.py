"""Patterns of what should not stand in training data: secrets, personal data, text that was decoded wrongly. They hint, they prove
nothing; what they match is never shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

SECRETS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----)?",
    "cloud access key": r"\bAKIA[0-9A-Z]{16}\b",
    "access token": r"\b(?:ghp|gho|ghs|github_pat|glpat|xox[bap])[-_][A-Za-z0-9_-]{16,}\b",
    "API key": r"\bsk-[A-Za-z0-9_-]{20,}\b",
    "hub token": r"\bhf_[A-Za-z0-9]{30,}\b",
}
PERSONAL = {
    "e-mail address": r"\b[\w.+-]+@[\w-]+\.[\w.-]*[A-Za-z]{2,}\b",
    "phone number": r"(?<![\w.])\+\d{1,3}[ -]?\(?\d{2,4}\)?(?:[ -]?\d{2,4}){2,4}(?!\w)",
    "IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b",
}
_MOJIBAKE = re.compile("\ufffd|Ã[\u0080-\u00bf©¨¤¶¼]|â€[™œ\u009d\u009c“”]")


def hinted(text: str, patterns: dict[str, str]) -> Iterator[str]:
    """The names of the patterns that the text matches."""
    yield from (name for name, pattern in patterns.items() if re.search(pattern, text))


def redacted(text: str) -> str:
    """The text with `[e-mail address]` and the like in place of secrets and personal data."""
    for name, pattern in (SECRETS | PERSONAL).items():
        text = re.sub(pattern, f"[{name}]", text)
    return text


def badly_decoded(text: str) -> bool:
    """Control characters, or what UTF-8 looks like when it was read as Latin-1."""
    control = any(unicodedata.category(c) == "Cc" and c not in "\n\r\t" for c in text)
    return control or _MOJIBAKE.search(text) is not None
