"""From a recipe to cells: which results are needed, what identifies each, and which of them exist.

A cell is one stage at one seed. Its digest covers everything that decides its result: kind, code version, seed, the whole
configuration but `runtime:`, and the digests of its inputs, data files, hub revisions and the lab's version. Opt-out, never opt-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from alignment.core.artifact import Artifact, digest_of
from alignment.core.config import DataRef, PretrainedConfig, StageConfig
from alignment.core.errors import RecipeError
from alignment.core.store import Store
from alignment.generation.engine import resolve_engine
from eval.config import EvaluateConfig
from recipes.divergence import divergence_of
from recipes.external import Externals
from recipes.measuring import measuring_of
from recipes.references import Reference, references
from recipes.schema import Recipe
from recipes.stages import KINDS
from recipes.unmerged import require_readers
from recipes.win_rates import WIN_RATE, place_of, win_rate_stages

EVALUATE = "evaluate:"
MEASUREMENTS = (EVALUATE, WIN_RATE)


@dataclass(frozen=True, eq=False)
class Cell:
    """stage: its name in the recipe, `evaluate:<stage>` for a measurement. seed: what randomness derives from.
    recipe_seed: the seed of the recipe that it belongs to; None when every seed shares it.
    inputs: by role, the cell that makes the input, or an artifact from outside the store.
    measuring: how its model is measured while it is trained, if it is; what that needs is among the inputs, as `evaluate.<role>`."""

    stage: str
    config: StageConfig
    seed: int
    recipe_seed: int | None
    identity: dict[str, Any]
    digest: str
    inputs: dict[str, Cell | Artifact] = field(default_factory=dict)
    measuring: EvaluateConfig | None = None

    @property
    def label(self) -> str:
        name = self.stage.replace(":", "-")
        return name if self.recipe_seed is None else f"{name}-seed{self.recipe_seed}"

    def needs(self) -> list[Cell]:
        return [cell for cell in self.inputs.values() if isinstance(cell, Cell)]


@dataclass(frozen=True)
class Plan:
    """cells: each once, inputs before users. by_stage[(stage, seed)]: what serves a stage at a recipe seed; a stage of kind
    `pretrained` only names a model from outside, which is no cell."""

    recipe: Recipe
    cells: list[Cell]
    by_stage: dict[tuple[str, int], Cell | Artifact]

    def only(self, stages: list[str]) -> list[Cell]:
        """The cells of these stages and everything they need."""
        wanted: dict[str, Cell] = {}

        def add(cell: Cell) -> None:
            for needed in cell.needs():
                add(needed)
            wanted[cell.digest] = cell

        for cell in self.cells:
            if cell.stage in stages:
                add(cell)
        return list(wanted.values())


def make_plan(recipe: Recipe, externals: Externals) -> Plan:
    """Unfold the recipe over its seeds. Raises RecipeError for a reference to a missing stage or a cycle."""
    stages = dict(recipe.stages) | evaluation_stages(recipe) | win_rate_stages(recipe.evaluation)
    along = {name: config for name in stages if (config := measuring_of(recipe, name)) is not None}
    order = _ordered(stages, along)
    by_stage: dict[tuple[str, int], Cell | Artifact] = {}
    unique: dict[str, Cell] = {}
    for seed in recipe.seeds:
        for name in order:
            config = stages[name]
            if isinstance(config, PretrainedConfig):
                by_stage[name, seed] = externals.model(config.model, where=f"stages.{name}.model")
                continue
            cell = _make_cell(name, config, seed, by_stage, externals, along.get(name))
            by_stage[name, seed] = unique.setdefault(cell.digest, cell)
    return Plan(recipe, list(unique.values()), by_stage)


def evaluation_stages(recipe: Recipe) -> dict[str, StageConfig]:
    """One evaluate stage for each model that the recipe measures. Sampling seeds are the same for all: pairs stay pairs."""
    block = recipe.evaluation
    if block is None:
        return {}
    return {
        EVALUATE + name: EvaluateConfig(
            seed=0,
            model={"stage": name},  # type: ignore[arg-type]
            divergence=divergence_of(recipe, name),
            **block.model_dump(exclude={"models", "divergence", "win_rates"}),
        )
        for name in block.models
    }


def _make_cell(
    name: str,
    config: StageConfig,
    seed: int,
    made: dict[tuple[str, int], Cell | Artifact],
    externals: Externals,
    measuring: EvaluateConfig | None,
) -> Cell:
    kind = KINDS[config.kind]
    inputs: dict[str, Cell | Artifact] = {}
    resolved: dict[str, Any] = config.model_dump(mode="json", exclude={"runtime", "seed", "kind"})
    _resolve_engines(resolved)
    if measuring is not None:
        resolved["evaluate"] |= measuring.model_dump(mode="json", exclude={"runtime", "kind", "model"})
        resolved["evaluate"] |= {"stage_version": KINDS["evaluate"].version, "lm_eval": version("lm-eval")}
        resolved["evaluate"]["task_files"] = [
            externals.task_file_digest(f, _place(name)) for f in measuring.task_files()
        ]
    for role, reference in _all_references(config, measuring):
        if reference.stage is not None:
            source = made[reference.stage, seed]
            inputs[role] = source
            _put(resolved, role, {"stage": source.digest})
            if role.partition(".")[0] in _TOLD:
                resolved.setdefault("names", {})[role] = reference.stage
        else:
            artifact, identity = externals.resolve(reference, where=f"{_place(name)}.{role}")
            if artifact is not None:
                inputs[role] = artifact
            _put(resolved, role, identity)
    require_readers(_place(name), config, inputs)
    if isinstance(config, EvaluateConfig):
        resolved["lm_eval"] = version("lm-eval")  # what another version measured is refused as a partner
        resolved["task_files"] = [externals.task_file_digest(name, _place(name)) for name in config.task_files()]
    varies = config.seed is None or any(isinstance(c, Cell) and c.recipe_seed is not None for c in inputs.values())
    cell_seed = seed if config.seed is None else config.seed
    identity = {"kind": config.kind, "stage_version": kind.version, "seed": cell_seed, "config": resolved}
    return Cell(name, config, cell_seed, seed if varies else None, identity, digest_of(identity), inputs, measuring)


def _all_references(config: StageConfig, measuring: EvaluateConfig | None) -> Iterator[tuple[str, Reference]]:
    """Those of the stage, and those of what it is measured on while it is trained."""
    yield from references(config)
    if measuring is not None:
        yield from ((f"evaluate.{role}", reference) for role, reference in references(measuring) if role != "model")


_TOLD = ("divergence", "judge")  # references whose names stand in the result itself
_SOURCE = ("stage", "path", "hub", "revision", "lab")  # of a reference; all else says how it is read


def _put(resolved: dict[str, Any], role: str, identity: dict[str, Any]) -> None:
    """Replace the reference at a dotted path by what identifies its contents; how it is read stays."""
    *parents, last = role.split(".")
    block: Any = resolved
    for part in parents:
        block = block[int(part)] if isinstance(block, list) else block[part]
    key: Any = int(last) if isinstance(block, list) else last
    kept = {name: value for name, value in block[key].items() if name not in _SOURCE and value is not None}
    block[key] = identity | kept


def _resolve_engines(block: dict[str, Any]) -> None:
    """`engine: auto` means vLLM or Hugging Face, depending on the machine: the digest holds what it means here."""
    for key, value in block.items():
        if isinstance(value, dict):
            _resolve_engines(value)
        elif key == "engine":
            block[key] = resolve_engine(value)


def _ordered(stages: dict[str, StageConfig], along: dict[str, EvaluateConfig]) -> list[str]:
    """Stage names, inputs first. Raises RecipeError for a missing stage or a cycle."""
    order: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise RecipeError(
                f"stages.{name}",
                f"stages need each other in a circle: {circle}",
                "an order in which each stage can run",
                "break the circle",
            )
        path.append(name)
        for role, reference in _needed_stages(stages[name], along.get(name)):
            needed = reference.stage or ""
            if needed not in stages or needed.startswith(MEASUREMENTS):
                where = f"evaluation.models: {needed}" if name == EVALUATE + needed else f"{_place(name)}.{role}"
                known = [other for other in stages if not other.startswith(MEASUREMENTS)]
                raise RecipeError(
                    where,
                    f"there is no stage {needed!r}",
                    f"one of {', '.join(known) or 'none'}",
                    "correct the name or add the stage",
                )
            _check_makes(f"{_place(name)}.{role}", stages[name], role, reference, stages[needed])
            visit(needed)
        path.pop()
        order.append(name)

    for name in stages:
        visit(name)
    return order


# what besides a language model a stage of that kind starts from or measures
_ALSO = {"evaluate": "classifier", "classify": "classifier", "seq2seq": "seq2seq"}
_REWARDS = ("reward", "second_reward")  # references to models that are to be reward models
_COUNT_TOKENS = ("sft", "dpo", "kto", "grpo", "rloo", "ppo")


def _check_makes(where: str, user: StageConfig, role: str, reference: Reference, source: StageConfig) -> None:
    """A reference names a stage that makes what its role needs. Raises RecipeError."""
    made, last, needed = KINDS[source.kind].makes, role.rpartition(".")[2], reference.stage
    expected = "dataset" if isinstance(reference, DataRef) else "reward_model" if last in _REWARDS else "model"
    if made != expected and not (role == "model" and made == _ALSO.get(user.kind)):
        kinds = ", ".join(kind for kind, spec in KINDS.items() if spec.makes == expected)
        what = f"stage {needed!r} makes a {made.replace('_', ' ')}"
        raise RecipeError(where, what, f"a {expected.replace('_', ' ')}: a stage of kind {kinds}", "name another stage")
    if last == "match_tokens" and source.kind not in _COUNT_TOKENS:
        raise RecipeError(
            where,
            f"stage {needed!r} counts no trained tokens",
            f"a stage of kind {', '.join(_COUNT_TOKENS)}",
            "name another stage",
        )


def _place(stage: str) -> str:
    if stage.startswith(WIN_RATE):
        return place_of(stage)
    return "evaluation" if stage.startswith(EVALUATE) else f"stages.{stage}"


def _needed_stages(config: StageConfig, measuring: EvaluateConfig | None) -> Iterator[tuple[str, Reference]]:
    for role, reference in _all_references(config, measuring):
        if reference.stage is not None:
            yield role, reference


def difference_to_nearest(cell: Cell, store: Store) -> str | None:
    """Which fields keep a finished cell of the same stage from being this one: what caused the miss. None if there is none."""
    mine = _flat(cell.identity)
    best: list[str] | None = None
    for _, manifest in store.manifests():
        if manifest["stage"] != cell.stage or manifest["stage_kind"] != cell.config.kind:
            continue
        theirs = _flat(manifest["identity"])
        changed = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if best is None or len(changed) < len(best):
            best = [_describe(key, theirs.get(key), mine.get(key)) for key in changed]
    return ", ".join(best) if best else None


def _describe(key: str, old: Any, new: Any) -> str:
    key = key.removeprefix("config.")
    if key.endswith(".stage"):
        return f"{key.removesuffix('.stage')}: its own input changed"
    shorten = lambda value: f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else value  # noqa: E731
    return f"{key}: {shorten(old)} -> {shorten(new)}"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v for name, child in value.items() for k, v in _flat(child, f"{path}.{name}" if path else name).items()
        }
    return {path: value if not isinstance(value, list) else str(value)}
