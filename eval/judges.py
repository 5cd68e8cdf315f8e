"""Judges of two answers. Scalar judges score each answer alone and compare; a judge that sees both is in `eval/chat_judge.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from alignment.data.rows import prompt_text
from alignment.generation.engine import Completion
from alignment.gold import gold_scorer

if TYPE_CHECKING:
    from torch import Tensor

Prompt = str | Sequence[Mapping[str, str]]
Side = Literal["reference", "new", "tie"]
Report = Callable[[int, int], None]


class Scorer(Protocol):
    """Scores whole answers by their token ids. `reward` has one, the runner hands it in."""

    def __call__(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]] = ()) -> Tensor:
        """[B] float32, higher is better."""
        ...


@dataclass(frozen=True)
class Answer:
    """text: what it says, without special tokens."""

    text: str
    completion: Completion


@dataclass(frozen=True)
class Pair:
    prompt: Prompt
    reference: Answer
    new: Answer


@dataclass(frozen=True)
class Judgement:
    """win: 1 where the new answer is better, 0 where the reference's is, 0.5 for a tie; None = no verdict.

    scores: of the reference's and the new answer, by a judge that scores. verdicts, replies: by a judge that is shown both,
    first with the reference's answer in front, then with the new one.
    """

    win: float | None
    scores: tuple[float, float] | None = None
    verdicts: tuple[Side | None, Side | None] | None = None
    replies: tuple[str, str] | None = None


class PairJudge(Protocol):
    def __call__(self, pairs: Sequence[Pair], report: Report) -> list[Judgement]:
        """One judgement per pair, in order. report(done, total) as it goes on."""
        ...


def rule_judge(name: str) -> PairJudge:
    """A gold scorer by its name, or `longer` or `shorter`: lengths in characters."""
    if name in ("longer", "shorter"):
        sign = 1 if name == "longer" else -1
        score = lambda prompt, text: float(sign * len(text))  # noqa: E731
    else:
        score = gold_scorer(name)

    def judge(pairs: Sequence[Pair], report: Report) -> list[Judgement]:
        judgements = []
        for pair in pairs:
            prompt = prompt_text(pair.prompt)  # pyright: ignore[reportArgumentType] (a message is a row)
            judgements.append(_by_scores(score(prompt, pair.reference.text), score(prompt, pair.new.text)))
        report(len(pairs), len(pairs))
        return judgements

    return judge


def reward_judge(scorer: Scorer) -> PairJudge:
    """Compares a reward model's scores. Equal answers are scored once: they tie, whatever batches do to the last digit."""

    def judge(pairs: Sequence[Pair], report: Report) -> list[Judgement]:
        completions = [answer.completion for pair in pairs for answer in (pair.reference, pair.new)]
        keys = [(*one.prompt_ids, None, *one.response_ids) for one in completions]
        unique = dict(zip(keys, completions, strict=True))
        scores = dict(zip(unique, scorer(list(unique.values())).tolist(), strict=True))
        report(len(pairs), len(pairs))
        return [_by_scores(scores[a], scores[b]) for a, b in zip(keys[::2], keys[1::2], strict=True)]

    return judge


def _by_scores(reference: float, new: float) -> Judgement:
    return Judgement(0.5 if new == reference else float(new > reference), scores=(reference, new))
