"""Gold scorers: the truth that a reward model only approximates, known exactly in the lab, by a lexicon for stories.

A gold scorer reads a prompt and a response as text and returns one number. Preference labels, the target task and the
over-optimisation curves all use the same function, so they live below `reward` and `eval`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated

from pydantic import AfterValidator

GoldScorer = Callable[[str, str], float]

NAMES = ("lab_service", "vader")


def _known(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"no gold scorer {name!r}; there are {', '.join(NAMES)}")
    return name


GoldName = Annotated[str, AfterValidator(_known)]  # for configurations: an unknown name is refused with the recipe


def gold_scorer(name: str) -> GoldScorer:
    """The scorer of that name: `(prompt text, response text) -> score`."""
    match name:
        case "lab_service":
            from alignment.lab.service import gold

            return gold
        case "vader":
            return _vader
    raise KeyError(name)


@cache
def _vader_analyzer():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _vader(prompt: str, response: str) -> float:
    """VADER compound sentiment of the response alone, in [-1, 1] (Hutto and Gilbert, 2014)."""
    return _vader_analyzer().polarity_scores(response)["compound"]
