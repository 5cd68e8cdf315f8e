"""How varied a model's sampled answers are: distinct n-grams over a task's answers, and among several answers to one prompt.

Words are runs of letters and digits, and each other mark is one, as written. distinct-n = different n-grams / n-grams (after Li et al.
2016, arXiv 1510.03055). It falls as more text is looked at, so it is compared between models that answered the same prompts only;
an answer that is longer repeats more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")
Gram = tuple[str, ...]


def ngrams(text: str, n: int) -> list[Gram]:
    words = _WORD.findall(text)
    return list(zip(*(words[start:] for start in range(n)), strict=False))


@dataclass(frozen=True)
class Distinct:
    """distinct-n over several texts. value: NaN where no text has n words. influence: `[n_texts]` jackknife pseudo-values.

    A bootstrap would draw texts twice and so see fewer different n-grams than there are: it is off centre here. Leaving out one
    text at a time is not: pseudo-value = N * value - (N - 1) * value without the text. Their spread is the error of `value`,
    rather too large than too small (Efron and Stein 1981): up to half as much again where most n-grams stand once or twice.
    """

    value: float
    influence: np.ndarray


def distinct(texts: Sequence[str], n: int) -> Distinct:
    grams = [ngrams(text, n) for text in texts]
    different = [set(each) for each in grams]
    holders = Counter(gram for each in different for gram in each)  # in how many texts an n-gram stands
    total, found = sum(map(len, grams)), len(holders)
    if not total:
        return Distinct(float("nan"), np.full(len(texts), float("nan")))
    value = found / total
    alone = np.array([sum(holders[gram] == 1 for gram in each) for each in different])  # vanish with the text
    left = total - np.array([len(each) for each in grams])
    without = np.divide(found - alone, left, out=np.full(len(texts), value), where=left > 0)
    return Distinct(value, len(texts) * value - (len(texts) - 1) * without)


def unique_share(texts: Sequence[str]) -> Distinct:
    """Different answers / answers, white space aside; with the same pseudo-values as `distinct`."""
    plain = [" ".join(text.split()) for text in texts]
    count = Counter(plain)
    value = len(count) / len(plain)
    alone = np.array([count[text] == 1 for text in plain])
    without = (len(count) - alone) / max(len(plain) - 1, 1)
    return Distinct(value, len(plain) * value - (len(plain) - 1) * without)


def within_prompts(samples: Sequence[Sequence[str]], n: int) -> np.ndarray:
    """`[P]` distinct-n among the answers to each prompt; 1 where no answer has n words: nothing is repeated."""
    values = np.array([distinct(answers, n).value for answers in samples])
    return np.where(np.isnan(values), 1.0, values)
