"""How good answers are against what they should be: exact match and ROUGE."""

from __future__ import annotations

from collections.abc import Sequence

_KINDS = ("rouge1", "rouge2", "rougeL")


def answer_figures(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Means over the answers: exact_match (white space aside), and the F-measures of ROUGE (Lin 2004) on stemmed words, as Google
    Research's package has them: overlap of words, of pairs of words, and the longest common subsequence."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_KINDS), use_stemmer=True)
    exact = [
        " ".join(answer.split()) == " ".join(target.split()) for answer, target in zip(answers, targets, strict=True)
    ]
    scores = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    return {"exact_match": sum(exact) / len(exact)} | {
        kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in _KINDS
    }
