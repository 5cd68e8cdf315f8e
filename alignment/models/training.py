"""What every stage that trains with a Hugging Face `Trainer` shares: arguments, data order, progress, checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from alignment.core.context import Context
from alignment.models.config import TrainingConfig

_COMPLETE = "complete.json"
_GROUPED_BATCHES = 16
_UNKEPT = ("epoch", "runtime", "per_second", "num_tokens")


def trainer_arguments(config: TrainingConfig, context: Context) -> dict[str, Any]:
    """Keyword arguments for trl's configs. What trl turns on unasked (bf16, gradient checkpointing) is set by name."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(context.scratch / "checkpoints"),
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if config.schedule == "constant" else config.schedule,
        "warmup_steps": config.warmup,  # below 1 = a share of all steps
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.precision == "bf16",
        "gradient_checkpointing": False,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_first_step": True,  # a run shorter than that has a loss to report, too
        "seed": context.seed_for("training"),
        "report_to": "none",
        "disable_tqdm": True,
    }


class ReportCallback(TrainerCallback):
    """Passes progress and metrics on to the suite, and marks each checkpoint complete when all of it is on disk.

    tokens: loss-bearing tokens trained so far; the trainer adds to it, a resumed run continues it. per_step: how many of the
    trainer's steps are one of the recipe's, in which metrics are told.
    """

    def __init__(self, context: Context, tokens: float = 0, per_step: int = 1) -> None:
        self._context, self.tokens, self._per_step = context, tokens, per_step
        self.losses: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= control.should_save  # else the loss since the last log would be lost to a resumed run
        if state.is_world_process_zero:
            self._context.progress.update(state.global_step, state.max_steps, "training", **self.losses)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        named = {_metric_name(key): float(value) for key, value in logs.items() if not key.endswith(_UNKEPT)}
        self.losses |= {key.split("/")[0] + "_loss": value for key, value in named.items() if key.endswith("/loss")}
        self._context.log.metrics(-(-state.global_step // self._per_step), named)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / _COMPLETE).write_text(json.dumps({"tokens": self.tokens, "losses": self.losses}))


def find_checkpoint(context: Context, per_step: int = 1) -> Path | None:
    """The newest complete checkpoint of an interrupted run; half-written ones are removed, later metrics dropped."""
    folders = sorted(
        (context.scratch / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    complete = [folder for folder in folders if (folder / _COMPLETE).exists()]
    for folder in set(folders) - set(complete):
        shutil.rmtree(folder)
    found = complete[-1] if complete else None
    context.log.forget_after(step_of(found) // per_step if found else -1)
    if found:
        context.log.info(f"resuming from step {step_of(found)}")
    return found


def step_of(checkpoint: Path | None) -> int:
    """Finished steps at a checkpoint; 0 without one."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def report_callback(context: Context, checkpoint: Path | None, per_step: int = 1) -> ReportCallback:
    """A callback that continues the counts of `checkpoint`, if there is one."""
    callback = ReportCallback(context, per_step=per_step)
    if checkpoint is not None:
        saved = json.loads((checkpoint / _COMPLETE).read_text())
        callback.tokens, callback.losses = saved["tokens"], saved["losses"]
    return callback


class LengthGrouped(torch.utils.data.Sampler[int]):
    """Row order of an epoch: shuffled, sorted by length within groups of some batches, whole batches shuffled again.

    Little padding, yet random. transformers' own sampler draws from the global random state, so a run resumed in a
    later epoch would see another order; here the order follows from (seed, epoch) alone.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        group = self._batch_size * _GROUPED_BATCHES
        grouped = [
            index
            for start in range(0, len(order), group)
            for index in sorted(order[start : start + group], key=lambda row: -self._lengths[row])
        ]
        full = len(order) // self._batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from grouped[batch * self._batch_size : (batch + 1) * self._batch_size]
        yield from grouped[full * self._batch_size :]


class Ordered:
    """A Hugging Face trainer whose rows come in the order of its `sampler`; without one, shuffled by transformers."""

    sampler: torch.utils.data.Sampler[int] | None = None

    def group_by_length(self, lengths: Sequence[int]) -> None:
        self.sampler = LengthGrouped(lengths, self.args.train_batch_size, self.args.seed)  # type: ignore[attr-defined]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.sampler is not None:
            return self.sampler
        return super()._get_train_sampler(train_dataset)  # type: ignore[misc]


def _metric_name(key: str) -> str:
    """transformers' `eval_loss` and `loss` as `validation/loss` and `train/loss`; what a rollout says keeps its name."""
    if key.startswith("rollout/"):
        return key
    return f"validation/{key[5:]}" if key.startswith("eval_") else f"train/{key}"
