"""What a classifier can be measured on. No torch here: `align check` asks too."""

from __future__ import annotations

from alignment.core.errors import RecipeError
from eval.config import ROLES, EvaluateConfig, Evaluation
from eval.task_config import LabelsTask, split_variant


def require_classifiable(block: Evaluation | EvaluateConfig, model: str) -> None:
    """Raises RecipeError unless every task is one of labels that says what a classifier reads, asked plainly."""
    for role in ROLES:
        for name in getattr(block, role):
            base, variant = split_variant(name)
            task = block.tasks.get(base)
            where = f"evaluation.{role}: {name}"
            if not isinstance(task, LabelsTask):
                raise _no(where, f"{model!r} is a classifier, which cannot be measured on this task")
            if task.text is None:
                what = f"{model!r} is a classifier, and the task does not say what it reads"
                raise RecipeError(where, what, 'for example `text: "{sentence}"`', f"add it to evaluation.tasks.{base}")
            if variant.format == "chat" or "chat" in block.formats:
                raise _no(where, f"{model!r} is a classifier, which cannot be asked in the chat format")
    if block.divergence is not None:
        raise _no("evaluation.divergence", f"{model!r} is a classifier, which has no likelihood of texts")


def _no(where: str, what: str) -> RecipeError:
    return RecipeError(where, what, "plain tasks of metric `labels`", "leave the task or the classifier out")
