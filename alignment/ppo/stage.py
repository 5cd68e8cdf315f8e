"""The stage `ppo`: Schulman et al. 2017 on a language model, with the details of Huang et al. 2024 ("N+").

What to read, in this order: `run` below is the algorithm; `rollout.judge` turns sampled answers into advantages;
`update.optimise` is the optimisation; `maths` holds every formula; `arrangements` which models there are; `packing` is why
padding costs nothing. README.md lists every detail with its source. Left out, on purpose: generation that overlaps training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import SuiteError
from alignment.data.rows import load_rows
from alignment.evaluations import Evaluations
from alignment.generation.engine import Completion, Engine, Sampling
from alignment.generation.open import open_engine
from alignment.memory.announce import announce_memory
from alignment.models.load import load_tokenizer
from alignment.parallel import World, world
from alignment.ppo.arrangements import new_learner
from alignment.ppo.checkpoint import Checkpoints
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.maths import adapted_coefficient
from alignment.ppo.memory import memory_by_part, memory_line
from alignment.ppo.prompts import Prompts
from alignment.ppo.protocols import Scorer
from alignment.ppo.ptx import PtxTexts
from alignment.ppo.reporting import Clock, Reporter
from alignment.ppo.result import save_policy
from alignment.ppo.rollout import judge, rollout_metrics
from alignment.ppo.sync import require_sync, send_weights
from alignment.ppo.update import optimise, policy_learns
from alignment.random_states import random_states, set_random_states


def run(
    config: PPOConfig,
    inputs: Mapping[str, Artifact],
    context: Context,
    scorer: Scorer,
    gold: Callable[[str, str], float] | None = None,
    second_scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Trains the policy and leaves it in `context.workdir`. inputs: `model`, `reward`, and `prompts` where they are a file's.

    gold(prompt text, answer) and the second scorer are only logged. Summary: train_tokens = response tokens times epochs,
    rollout_tokens, steps, seconds, engine, and score, KL (nats a sequence) and gold of the last step's samples.
    Raises SuiteError if the engine's weights ever differ from the policy's, or if no finite update can be made.
    """
    started = time.monotonic()
    processes = world()
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    rows = load_rows(config.prompts, inputs.get("prompts"), ("prompt",), "prompts")
    prompts = Prompts(rows, tokenizer, context.seed_for("prompts"))
    ptx = PtxTexts(config.ptx, inputs, tokenizer, context.seed_for("ptx")) if config.ptx else None
    memory = announce_memory(config, inputs["model"].path, prompts.longest, context)
    learner = new_learner(config, inputs, context, processes)
    context.log.info(memory_line(config.arrangement, memory_by_part(learner, scorer)))
    checkpoints = Checkpoints(context.scratch / "checkpoints", say=context.log.info)
    totals = _resume(checkpoints, learner, context)
    report = Reporter(config, context, tokenizer, gold, second_scorer, totals["steps"]) if processes.main else None
    evaluations = Evaluations(config.evaluate, context, totals["steps"], processes)
    save = partial(save_policy, learner, inputs["model"].path, tokenizer)
    last = _last(context) if evaluations.stopped else {}

    with closing(_open(config, inputs["model"], prompts, context, processes)) as engine:
        context.log.info(f"rollouts by {engine.name}")
        send_weights(engine, learner, config, context.scratch)
        for step in range(totals["steps"], totals["steps"] if evaluations.stopped else config.steps):
            clock = Clock()
            learner.policy_optimizer.set_progress(step / config.steps)
            learner.critic_optimizer.set_progress(step / config.steps)

            with clock("generate"):
                prompt_batch, row_batch = prompts.batch(step, config.rollout.batch_size)
                completions = _generate(engine, prompt_batch, config, context.seed_for(f"rollout {step}"), processes)
            with clock("score"):
                rollout = judge(completions, row_batch, learner, scorer, config)
            with clock("optimise"):
                updates = optimise(
                    rollout, learner, config, step=step, seed=context.seed_for(f"shuffle {step}"), ptx=ptx
                )
                _require_progress(learner, config, checkpoints)
            with clock("sync"):
                send_weights(engine, learner, config, context.scratch)
                gap = require_sync(engine, learner, completions, config)

            last = rollout_metrics(rollout) | updates | clock.metrics(rollout.tokens, updates["update/epochs"])
            last |= {"kl/coefficient": learner.kl_coefficient, "sync/logprob_gap": gap}
            if report is not None:
                last = report(step + 1, rollout, row_batch, last)
            learner.kl_coefficient = _next_coefficient(config, learner.kl_coefficient, last["rollout/kl"], step)
            if config.reference_reset_every and (step + 1) % config.reference_reset_every == 0:
                learner.reset_reference()
            totals = {
                "steps": step + 1,
                "rollout_tokens": totals["rollout_tokens"] + rollout.tokens,
                "train_tokens": totals["train_tokens"] + rollout.tokens * int(updates["update/epochs"]),
            }
            stop = evaluations.after(step + 1, config.steps, save)
            due = config.checkpoint_every and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps
            if due and not learner.skipped:  # else the good ones, from before the trouble, would go
                _save(checkpoints, learner, totals)
            if stop:
                break
        name = engine.name

    best = evaluations.finish(save)
    return _summary(totals, last, name, time.monotonic() - started) | memory | best


def _resume(checkpoints: Checkpoints, learner: Learner, context: Context) -> dict[str, int]:
    """Brings the learner and every library's random state to where the newest good checkpoint was made. Returns running sums:
    finished steps, tokens sampled, and tokens trained on, each as often as an epoch met it."""
    totals = {"steps": 0, "rollout_tokens": 0, "train_tokens": 0}
    saved = checkpoints.load(learner.device)
    if saved is not None:
        state = saved[1]
        learner.restore(state["learner"])
        set_random_states(state["random"])
        totals = state["totals"]
        context.log.info(f"resumed after step {totals['steps']}")
    if len(set(steps := learner.world.gather([totals["steps"]]))) > 1:
        raise SuiteError(
            "ppo",
            f"processes would resume after steps {', '.join(map(str, steps))}",
            "one checkpoint for all of them",
            "give all machines the same store, or remove the checkpoints that not all of them can read",
        )
    return totals


def _last(context: Context) -> dict[str, float]:
    """The numbers of the last step that was logged, for a run that had ended when it was killed."""
    return next(row for row in reversed(context.log.rows()) if "rollout/score" in row)


def _save(checkpoints: Checkpoints, learner: Learner, totals: dict[str, int]) -> None:
    """Sharded weights are gathered by all processes, the first of which writes."""
    state = {"learner": learner.state(), "random": random_states(), "totals": totals}
    if learner.world.main:
        checkpoints.save(totals["steps"], state)
    learner.world.barrier()


def _open(config: PPOConfig, model: Artifact, prompts: Prompts, context: Context, processes: World) -> Engine:
    return open_engine(
        config.rollout.engine,
        model.path,
        max_prompt_tokens=prompts.longest,
        max_new_tokens=config.rollout.max_new_tokens,
        batch_size=-(-config.rollout.batch_size // processes.size),
        precision=config.engine_precision,
        seed=context.seed_for("engine"),
        url=config.rollout.url,
        adapter_rank=config.peft.r if config.peft is not None and config.rollout.lora == "adapter" else None,
    )


def _generate(
    engine: Engine, prompts: Sequence[list[int]], config: PPOConfig, seed: int, processes: World
) -> list[Completion]:
    """One answer to each prompt. Every process samples for its share of them, and then has all."""
    sampling = Sampling(
        config.rollout.max_new_tokens, config.rollout.temperature, seed, first=processes.first(len(prompts))
    )
    completions = engine.generate(processes.share(prompts), sampling)
    engine.sleep()
    return processes.gather(completions)


def _require_progress(learner: Learner, config: PPOConfig, checkpoints: Checkpoints) -> None:
    """Raises SuiteError when no update could be made for some steps in a row."""
    if learner.skipped < config.guard.patience:
        return
    newest = checkpoints.newest()
    limit = f" or above {config.guard.gradient_norm:g}" if config.guard.gradient_norm else ""
    raise SuiteError(
        "ppo",
        f"in {learner.skipped} steps in a row every update had a gradient that was not finite{limit}",
        "finite gradients",
        "lower learning_rate or critic.learning_rate, or clip scores (scores.clip); "
        + (f"the last good checkpoint is that of step {newest}" if newest else "there is no checkpoint before this"),
    )


def _next_coefficient(config: PPOConfig, coefficient: float, sequence_kl: float, step: int) -> float:
    """A policy that stands still, while the critic warms up, is no reason to lower the coefficient."""
    if config.kl.target is None or not policy_learns(config, step):
        return coefficient
    return adapted_coefficient(coefficient, sequence_kl, config.kl.target, config.kl.horizon, config.rollout.batch_size)


def _summary(totals: Mapping[str, int], last: Mapping[str, float], engine: str, seconds: float) -> dict[str, Any]:
    summary = {
        **totals,
        "seconds": seconds,
        "engine": engine,
        "score": last["rollout/score"],
        "kl": last["rollout/kl"],
    }
    return summary | ({"gold": last["rollout/gold"]} if "rollout/gold" in last else {})
