"""The one table of stage kinds. Everything is imported lazily: a recipe is checked without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from alignment.core.artifact import ArtifactKind
from alignment.core.config import StageConfig


@dataclass(frozen=True)
class StageKind:
    """config, run: `module:attribute`. makes: what the artifact is. version: raise it when the stage's code changes what it
    computes; tests/unit/recipes/test_stage_versions.py fails when `sources` change and it does not.
    weight: a rough share of time, for scheduling the longest chain first.
    fields: per data reference of the configuration, the alternatives of fields that its rows must hold.
    parallel: whether several processes can carry it out together (`runtime: {processes: N}`)."""

    config: str
    run: str
    makes: ArtifactKind
    version: int
    sources: tuple[str, ...]
    weight: float
    fields: dict[str, tuple[tuple[str, ...], ...]]
    parallel: bool = False

    def config_model(self) -> type[StageConfig]:
        return load(self.config)

    def fields_of(self, role: str) -> tuple[tuple[str, ...], ...]:
        """What the rows of a data reference have to hold; a part of a mixture the same as the whole."""
        return self.fields.get(role.partition(".mixture.")[0], ((),))


# read by every stage: how rows become tokens, which seeds follow from which
_BASE = ("alignment/data", "alignment/core/context.py")
_TRAINING = ("alignment/anchors.py", "alignment/evaluations.py", "alignment/random_states.py", "alignment/tuning.py")
_MODELS = ("alignment/models", *_BASE)
_GOLD = ("alignment/gold.py", "alignment/lab/service.py", "alignment/lab/world.py")
_GENERATION = ("alignment/generation",)
_LAB = ("alignment/lab/data.py", "alignment/lab/service.py", "alignment/lab/skills.py", "alignment/lab/world.py")
_TEXTS = (("prompt", "completion"), ("messages",), ("text",))
_GROUP = StageKind(
    config="alignment.group.config:GRPOConfig",
    run="recipes.wiring:run_group",
    makes="model",
    version=1,
    sources=("alignment/group", "reward/scorer.py", "recipes/wiring.py", *_TRAINING, *_GENERATION, *_MODELS),
    weight=4,
    fields={"prompts": (("prompt",),)},
)

KINDS: dict[str, StageKind] = {
    "pretrained": StageKind(
        config="alignment.core.config:PretrainedConfig",
        run="",
        makes="model",
        version=2,
        sources=(),
        weight=0,
        fields={},
    ),
    "pretrain": StageKind(
        config="alignment.lab.config:PretrainConfig",
        run="alignment.lab.stage:run",
        makes="model",
        version=3,
        sources=("alignment/lab", "alignment/core/context.py"),
        weight=8,
        fields={},
    ),
    "sft": StageKind(
        config="alignment.sft.config:SFTConfig",
        run="alignment.sft.stage:run",
        makes="model",
        version=5,
        sources=("alignment/sft", *_TRAINING, *_MODELS),
        weight=2,
        fields=dict.fromkeys(("data", "validation", "replay.data", "anchor.data"), _TEXTS),
    ),
    "classify": StageKind(
        config="alignment.classify.config:ClassifyConfig",
        run="alignment.classify.stage:run",
        makes="classifier",
        version=1,
        sources=("alignment/classify", *_TRAINING, *_MODELS),
        weight=1.5,
        fields=dict.fromkeys(("data", "validation"), (("text", "label"),)),
    ),
    "seq2seq": StageKind(
        config="alignment.seq2seq.config:Seq2SeqConfig",
        run="alignment.seq2seq.stage:run",
        makes="seq2seq",
        version=1,
        sources=("alignment/seq2seq", *_TRAINING, *_MODELS),
        weight=2,
        fields=dict.fromkeys(("data", "validation"), (("prompt", "completion"),)),
    ),
    "excerpts": StageKind(
        config="reward.config:ExcerptsConfig",
        run="reward.excerpts:run",
        makes="dataset",
        version=4,
        sources=("reward/excerpts.py", *_GOLD, *_MODELS),
        weight=0.5,
        fields={"data": (("text",),)},
    ),
    "preferences": StageKind(
        config="reward.config:PreferencesConfig",
        run="reward.preferences:run",
        makes="dataset",
        version=5,
        sources=("reward/preferences.py", "reward/answers.py", *_GOLD, *_GENERATION, *_MODELS),
        weight=1.5,
        fields={"prompts": (("prompt",),)},
    ),
    "best_of_n": StageKind(
        config="reward.config:BestOfNConfig",
        run="recipes.wiring:run_best_of_n",
        makes="dataset",
        version=1,
        sources=("reward/best_of_n.py", "reward/answers.py", "reward/scorer.py", *_GOLD, *_GENERATION, *_MODELS),
        weight=1.5,
        fields={"prompts": (("prompt",),)},
    ),
    "reward": StageKind(
        config="reward.config:RewardConfig",
        run="reward.stage:run",
        makes="reward_model",
        version=4,
        sources=("reward/stage.py", "reward/scorer.py", *_MODELS),
        weight=2,
        fields={"data": (("prompt", "chosen", "rejected"),)},
    ),
    "ppo": StageKind(
        config="alignment.ppo.config:PPOConfig",
        run="recipes.wiring:run_ppo",
        makes="model",
        version=6,
        sources=("alignment/ppo", "reward/scorer.py", "recipes/wiring.py", *_TRAINING, *_GENERATION, *_MODELS),
        weight=5,
        fields={"prompts": (("prompt",),), "ptx.data": (("text",),)},
        parallel=True,
    ),
    "dpo": StageKind(
        config="alignment.preference.config:DPOConfig",
        run="alignment.preference.stage:run_dpo",
        makes="model",
        version=1,
        sources=("alignment/preference", *_TRAINING, *_MODELS),
        weight=2,
        fields={**dict.fromkeys(("data", "validation"), (("prompt", "chosen", "rejected"),)), "anchor.data": _TEXTS},
    ),
    "kto": StageKind(
        config="alignment.preference.config:KTOConfig",
        run="alignment.preference.stage:run_kto",
        makes="model",
        version=1,
        sources=("alignment/preference", *_TRAINING, *_MODELS),
        weight=2,
        fields={
            **dict.fromkeys(
                ("data", "validation"), (("prompt", "completion", "label"), ("prompt", "chosen", "rejected"))
            ),
            "anchor.data": _TEXTS,
        },
    ),
    "grpo": _GROUP,
    "rloo": replace(_GROUP, config="alignment.group.config:RLOOConfig"),
    "interpolate": StageKind(
        config="alignment.merging.config:InterpolateConfig",
        run="alignment.merging.stage:run",
        makes="model",
        version=1,
        sources=("alignment/merging", *_MODELS),
        weight=0.2,
        fields={},
    ),
    "untrained": StageKind(
        config="alignment.untrained.config:UntrainedConfig",
        run="alignment.untrained.stage:run",
        makes="model",
        version=1,
        sources=("alignment/untrained",),
        weight=0.1,
        fields={},
    ),
    "evaluate": StageKind(
        config="eval.config:EvaluateConfig",
        run="eval.stage:run",
        makes="evaluation",
        version=6,
        sources=(
            "eval/stage.py",
            "eval/divergence.py",
            "eval/divergence_inputs.py",
            "eval/divergence_rows.py",
            "eval/kl_maths.py",
            "eval/harness.py",
            "eval/classifier_lm.py",
            "eval/classifiable.py",
            "eval/text_tasks.py",
            "eval/local_tasks.py",
            "eval/local_rows.py",
            "eval/task_config.py",
            "eval/task_files.py",
            "eval/task_packages.py",
            "eval/catalogue.py",
            "eval/scores.py",
            "eval/items.py",
            "eval/tasks",
            "alignment/gold.py",
            *_GENERATION,
            *_LAB,
            *_MODELS,
        ),
        weight=1,
        fields={},
    ),
    "cost": StageKind(
        config="eval.cost_config:CostConfig",
        run="eval.cost:run",
        makes="cost",
        version=2,
        sources=("eval/cost.py", *_MODELS),
        weight=0.2,
        fields={},
    ),
    "win_rate": StageKind(
        config="eval.win_config:WinRateConfig",
        run="recipes.wiring:run_win_rate",
        makes="win_rate",
        version=1,
        sources=(
            "eval/win_rate.py",
            "eval/win_rate_files.py",
            "eval/judges.py",
            "eval/chat_judge.py",
            "reward/scorer.py",
            *_GOLD,
            *_GENERATION,
            *_MODELS,
        ),
        weight=1,
        fields={},
    ),
}


def load(name: str) -> Any:
    """The attribute that `module:attribute` names."""
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def run_function(kind: str) -> Callable[..., dict[str, Any]]:
    return load(KINDS[kind].run)
