"""What every stage that fine-tunes a model through a Hugging Face trainer does alike: load it, carry the training out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from alignment.core.context import Context
from alignment.evaluations import EvaluateCallback, Evaluations
from alignment.models.config import SupervisedConfig, TuningConfig
from alignment.models.load import load_causal_lm, save_model
from alignment.models.training import step_of, trainer_arguments


class Tuned(NamedTuple):
    """trained: False where a run that had stopped early was killed before it could end: no trained weights are at hand then.
    steps: of the trainer, over all of the run. finish: leaves the model in the cell's folder; returns `best_step`, if there is one."""

    trained: bool
    steps: int
    finish: Callable[[], dict[str, int]]


def load_for_tuning(config: TuningConfig, path: Path, context: Context, dropout: bool = True) -> Any:
    """A language model in training state."""
    if config.peft is not None and not config.peft.merges:
        context.log.info(
            f"{config.peft.method} cannot be merged into the weights: the base is left with the adapter beside it"
        )
    return load_causal_lm(path, **how_to_load(config, context.seed_for("adapter")), dropout=dropout)


def how_to_load(config: TuningConfig, seed: int) -> dict[str, Any]:
    """Arguments of whoever loads a model to train it. What is trained is held in fp32, whatever the precision to compute in.
    seed: of its new weights."""
    return {
        "precision": config.precision if config.peft else "fp32",
        "peft": config.peft,
        "quantization": config.quantization,
        "freeze": config.freeze,
        "seed": seed,
    }


def supervised_arguments(config: SupervisedConfig, context: Context) -> dict[str, Any]:
    """`trainer_arguments` with how long to train, and when to validate."""
    arguments = trainer_arguments(config, context)
    if config.steps is not None:
        arguments |= {"max_steps": config.steps}
    if config.epochs is not None:
        arguments |= {"num_train_epochs": config.epochs}
    if config.evaluate_every is not None:
        arguments |= {"eval_strategy": "steps", "eval_steps": config.evaluate_every}
    if config.early_stopping is not None:
        arguments |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
        arguments |= {"save_steps": config.evaluate_every}  # the best weights must be among the saved ones
    return arguments


def early_stopping(config: SupervisedConfig) -> list[TrainerCallback]:
    return [EarlyStoppingCallback(config.early_stopping.patience)] if config.early_stopping is not None else []


def of_model_left(figures: dict[str, float], tuned: Tuned, best: dict[str, int]) -> dict[str, float]:
    """Figures of the last weights under names that say so, where the model that is left is an earlier one."""
    if best.get("best_step", tuned.steps) == tuned.steps:
        return figures
    return {f"last_{name}": value for name, value in figures.items()}


def carry_out(
    trainer: Any, config: TuningConfig, context: Context, tokenizer: Any, checkpoint: Path | None, per_step: int = 1
) -> Tuned:
    """Train, from the checkpoint if there is one, and measure along the way. per_step: the trainer's steps of one of the recipe's."""
    trainer.remove_callback(PrinterCallback)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # trl turns adapters on quantised weights to bf16, which loses small steps
            parameter.data = parameter.data.float()
    evaluations = Evaluations(config.evaluate, context, step_of(checkpoint) // per_step)
    save = partial(save_model, trainer.model, tokenizer)
    trainer.add_callback(EvaluateCallback(evaluations, save, per_step))
    trained = not evaluations.stopped
    if trained:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return Tuned(trained, trainer.state.global_step or step_of(checkpoint), partial(evaluations.finish, save))
