"""What a recipe says about PPO. No torch here.

Defaults follow Huang et al. 2024, "The N+ implementation details of RLHF with PPO", where they name one. README.md beside this
file goes through all of them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alignment.core.config import Config, DataRef, DuringTraining, ModelRef, Precision, StageConfig
from alignment.generation.engine import EngineName
from alignment.gold import GoldName
from alignment.models.config import PeftConfig, QuantizationConfig

Arrangement = Literal["separate", "shared_base", "value_head"]


class RolloutConfig(Config):
    """Sampling is from the full distribution: the trainer could not reproduce log-probabilities filtered by top-p or top-k.

    url: of a running server, for engine vllm_server. lora: what an engine gets of a policy that is an adapter: weights with the
    adapter merged in, or the adapter itself (vLLM only).
    """

    engine: EngineName = "auto"
    url: str | None = None
    batch_size: int = Field(default=64, gt=0, description="prompts per step, one answer each")
    max_new_tokens: int = Field(default=48, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    lora: Literal["merged", "adapter"] = "merged"

    @model_validator(mode="after")
    def _server_has_a_url(self) -> RolloutConfig:
        if (self.engine == "vllm_server") != (self.url is not None):
            raise ValueError("engine vllm_server and url belong together")
        return self


class CriticConfig(Config):
    """init: weights that the critic starts from. The reward model already knows what a good answer is; the policy needs a
    fresh head. warmup_steps: steps at the beginning in which only the critic learns; None = none.

    With arrangement value_head, loss_coefficient weighs the value loss against the policy's on their common trunk, and
    stop_gradient keeps the value loss out of the trunk.
    """

    init: Literal["reward", "policy"] = "reward"
    learning_rate: float = Field(default=3e-6, gt=0)
    warmup_steps: int | None = Field(default=None, gt=0)
    loss_coefficient: float = Field(default=0.1, gt=0)
    stop_gradient: bool = False


class KlConfig(Config):
    """Penalty -coefficient * kl_t on every response token, kl_t = log p - log p_reference (the estimator k1).

    target: sequence KL, in nats, that an adaptive coefficient steers to (Ziegler et al. 2019); None = fixed coefficient.
    horizon: sequences over which the adaptive coefficient moves.
    """

    coefficient: float = Field(default=0.05, ge=0)
    target: float | None = Field(default=None, gt=0)
    horizon: int = Field(default=10_000, gt=0)
    estimator: str = "k1"

    @field_validator("estimator")
    @classmethod
    def _only_k1(cls, estimator: str) -> str:
        if estimator != "k1":
            raise ValueError(
                f"{estimator!r} inside the reward has almost none of the KL's gradient and lets the policy collapse; only k1 is "
                "right there. k3 is logged as rollout/kl_k3 in any case"
            )
        return estimator


class GaeConfig(Config):
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)


class ClipConfig(Config):
    """ratio: the policy ratio's distance from 1. value: the distance of a new value from the rollout's; None = off.
    dual: bound, > 1, on the ratio where the advantage is negative (Ye et al. 2020); None = off."""

    ratio: float = Field(default=0.2, gt=0)
    value: float | None = Field(default=0.2, gt=0)
    dual: float | None = Field(default=None, gt=1)


class MissingEosConfig(Config):
    """What an answer cut by the length limit gets: its score replaced by `value` (N+), or `value` subtracted from it (trl)."""

    mode: Literal["replace", "subtract"] = "replace"
    value: float = -1.0


class ImportanceConfig(Config):
    """Truncated importance sampling: weights min(p_trainer / p_sampler, cap) make up for what sampler and trainer disagree on,
    per token or for the whole sequence (Yao et al. 2025)."""

    cap: float = Field(default=2.0, ge=1)
    level: Literal["token", "sequence"] = "token"


class ScoreConfig(Config):
    """What is done to scores beyond the scorer's own fixed normalisation. running: mean 0 and deviation 1 over all scores of the
    run so far; batch: over each batch. clip: bound on the absolute value, after that."""

    normalise: Literal["running", "batch"] | None = None
    clip: float | None = Field(default=None, gt=0)


class PtxConfig(Config):
    """PPO-ptx (Ouyang et al. 2022): each optimiser step also lowers the language-model loss on texts of old, times
    `coefficient`, so that what they hold is not forgotten. batch_size: texts in an optimiser step, cut at max_tokens."""

    data: DataRef
    coefficient: float = Field(gt=0)
    batch_size: int = Field(default=16, gt=0)
    max_tokens: int = Field(default=256, gt=1)


class GuardConfig(Config):
    """An optimiser step is skipped if a gradient is not finite, or its norm exceeds `gradient_norm`
    (None = any finite norm goes). `patience` steps of the run in a row without a single optimiser step stop it: one bad score
    may cost all updates of its batch."""

    gradient_norm: float | None = Field(default=None, gt=0)
    patience: int = Field(default=5, gt=0)


class PPOConfig(StageConfig):
    """Proximal policy optimisation (Schulman et al. 2017) on a reward model's scores, against a KL penalty.

    model: the policy to start from, and the reference of the KL. reward: the reward model whose scores are maximised.
    second_reward: another one, whose mean score is logged but never trained on.

    arrangement: which models share weights. separate: policy, reference, critic and reward model are four models.
    shared_base: policy and critic are two adapters (`peft`) on one base, which without them is the reference; with
    `quantization` the base is held in few bits. value_head: the critic is a linear read-out of the policy's trunk; with `peft`
    the policy is an adapter and the base the reference.

    learning_rate falls linearly to 0 over `steps`. minibatch_size: sequences per optimiser step; `epochs` passes over each
    rollout batch, ended early after a pass whose mean approximate KL to the rollout's policy exceeds `early_stop_kl` (nats per
    token). tokens_per_pass: the most tokens one forward pass holds; larger minibatches are accumulated, to the same update.
    precision: bf16 = weights and computation in bf16 with fp32 master weights; autocast = fp32 weights, bf16 matrix products.
    reference_reset_every: steps after which the reference becomes the present policy; None = never.
    checkpoint_every: steps between checkpoints; None = none. samples_every: steps between tables of rollouts in the log.
    gold: name of a gold scorer whose mean is logged beside the reward, never trained on, so that over-optimisation of
    the reward model shows; None = off.
    sync_tolerance: mean |difference| of log-probabilities between engine and trainer, after an update, that stops the run;
    None = 1e-3 in fp32 and 0.1 otherwise (weights of 8 bits included).
    """

    kind: Literal["ppo"] = "ppo"
    model: ModelRef
    reward: ModelRef
    second_reward: ModelRef | None = None
    prompts: DataRef
    arrangement: Arrangement = "separate"
    peft: PeftConfig | None = None
    quantization: QuantizationConfig | None = None
    rollout: RolloutConfig = RolloutConfig()
    critic: CriticConfig = CriticConfig()
    kl: KlConfig = KlConfig()
    gae: GaeConfig = GaeConfig()
    clip: ClipConfig = ClipConfig()
    scores: ScoreConfig = ScoreConfig()
    missing_eos: MissingEosConfig | None = MissingEosConfig()
    importance: ImportanceConfig | None = ImportanceConfig()
    ptx: PtxConfig | None = None
    guard: GuardConfig = GuardConfig()
    steps: int = Field(default=60, gt=0)
    epochs: int = Field(default=2, gt=0)
    minibatch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=3e-6, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    early_stop_kl: float | None = Field(default=None, gt=0)
    entropy_bonus: float | None = Field(default=None, gt=0)
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    reference_reset_every: int | None = Field(default=None, gt=0)
    precision: Precision | Literal["autocast"] = "fp32"
    gradient_checkpointing: bool = False
    tokens_per_pass: int = Field(default=16_384, gt=0)
    checkpoint_every: int | None = Field(default=20, gt=0)
    samples_every: int | None = Field(default=20, gt=0)
    evaluate: DuringTraining | None = None
    gold: GoldName | None = None
    sync_tolerance: float | None = Field(default=None, gt=0)

    @property
    def engine_precision(self) -> Precision:
        """The dtype of weights that are only read: in the engine, the reference, the reward model."""
        return "fp32" if self.precision == "fp32" else "bf16"

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPOConfig:
        batch, size = self.rollout.batch_size, self.minibatch_size
        if batch % size:
            fitting = [str(n) for n in range(1, batch + 1) if batch % n == 0]
            raise ValueError(
                f"minibatch_size: {size} does not divide rollout.batch_size {batch}; use {', '.join(fitting)}"
            )
        return self

    @model_validator(mode="after")
    def _arrangement_is_possible(self) -> PPOConfig:
        if self.arrangement == "separate" and self.peft is not None:
            raise ValueError("peft: four separate models are trained whole; use arrangement shared_base or value_head")
        if self.arrangement == "shared_base" and self.peft is None:
            raise ValueError("arrangement shared_base: policy and critic are adapters there; describe them under peft")
        if self.quantization is not None and self.peft is None:
            raise ValueError(
                "quantization: weights in few bits cannot be trained; add peft and arrangement shared_base"
            )
        if self.arrangement != "separate" and self.critic.init == "reward":
            raise ValueError(
                f"critic.init: with arrangement {self.arrangement} the critic stands on the policy's base; set critic.init: policy"
            )
        if self.critic.stop_gradient and self.arrangement != "value_head":
            raise ValueError(
                "critic.stop_gradient: only a value head shares the policy's trunk; set arrangement: value_head"
            )
        return self

    @model_validator(mode="after")
    def _adapter_can_be_sent(self) -> PPOConfig:
        if self.rollout.lora == "merged":
            return self
        if self.peft is None:
            raise ValueError("rollout.lora: the policy has no adapter to send; leave it out, or train one with peft")
        if self.rollout.engine == "hf":
            raise ValueError("rollout.lora: engine hf serves no adapters; use merged, or an engine of vLLM")
        if self.quantization is not None:
            raise ValueError(
                "rollout.lora: the engine's base is not quantised, so the adapter alone would not fit; use merged"
            )
        return self

    @model_validator(mode="after")
    def _every_process_has_work(self) -> PPOConfig:
        sizes = {"minibatch_size": self.minibatch_size}
        sizes |= {"ptx.batch_size": self.ptx.batch_size} if self.ptx is not None else {}
        for name, size in sizes.items():
            if size < self.runtime.processes:
                raise ValueError(
                    f"{name}: {size} is too few for runtime.processes {self.runtime.processes}; raise it to that"
                )
        return self

    @model_validator(mode="after")
    def _weights_can_be_sharded(self) -> PPOConfig:
        if self.peft is not None and self.runtime.sharding != "none":
            raise ValueError("runtime.sharding: adapters leave little to shard, and it was never tried; set it to none")
        return self

    @model_validator(mode="after")
    def _no_option_is_idle(self) -> PPOConfig:
        if self.arrangement != "value_head" and self.critic.loss_coefficient != CriticConfig().loss_coefficient:
            raise ValueError("critic.loss_coefficient: only a value head shares its loss with the policy; remove it")
        if self.kl.target is None and self.kl.horizon != KlConfig().horizon:
            raise ValueError("kl.horizon: only a coefficient steered to a kl.target has one; remove it")
        if self.peft is not None and self.peft.method not in ("lora", "rslora"):
            raise ValueError(
                f"peft.method: PPO's engines get merged weights of lora or rslora, not of {self.peft.method}"
            )
        if self.peft is not None and self.peft.dropout:
            raise ValueError("peft.dropout: PPO turns dropout off, since it compares forward passes; set it to 0")
        return self

    @model_validator(mode="after")
    def _steps_are_left_for_the_policy(self) -> PPOConfig:
        if self.critic.warmup_steps is not None and self.critic.warmup_steps >= self.steps:
            raise ValueError(
                f"critic.warmup_steps: {self.critic.warmup_steps} leaves the policy none of {self.steps} steps"
            )
        return self
