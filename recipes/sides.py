"""What a name on the command line of `align compare` means: which models, which finished measurements, of how many seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignment.core.artifact import digest_of
from alignment.core.errors import RecipeError
from alignment.core.store import Store
from alignment.models.layout import base_of
from recipes.plan import EVALUATE

Found = tuple[Path, dict[str, Any]]  # a finished cell: folder and manifest
LOCKS = ".locks"  # a folder that every store has

EXPECTED = (
    "RECIPE/STAGE of the store, STORE/RECIPE/STAGE of another, a model folder, hub:NAME, an evaluation's folder, or the "
    "output folder of lm_eval --log_samples; several folders, separated by commas, are the seeds of one arm"
)


@dataclass(frozen=True)
class Side:
    """One arm. models: its checkpoints by seed. evaluations: those that the store already holds, by seed. logs: folders of
    lm-eval's own results, by seed. others: how many other configurations of the stage the store holds."""

    name: str
    models: dict[int, dict[str, str]] = field(default_factory=dict)
    evaluations: dict[int, Path] = field(default_factory=dict)
    logs: dict[int, Path] = field(default_factory=dict)
    others: int = 0


def find_side(name: str, store: Store) -> Side:
    """What `name` means. Raises RecipeError where it means nothing."""
    parts = [part for part in name.split(",") if part]
    if len(parts) > 1 and not Path(name).exists():
        return _seeds_of_one_arm(parts)
    side = _outside(name) or _in_store(name, name, store) or _in_another_store(name)
    if side is None:
        known = sorted({_stage(manifest) for _, manifest in store.manifests()})
        remedy = f"the store has: {', '.join(known)}" if known else f"the store {store.root} is empty"
        raise RecipeError(name, "names nothing that can be compared", EXPECTED, remedy)
    return side


def with_short_names(sides: Sequence[Side]) -> list[Side]:
    """The last part of each name, as long as that tells them apart."""
    short = [Path(side.name.removeprefix("hub:")).name for side in sides]
    named = zip(sides, short, strict=True)
    return [replace(side, name=name) for side, name in named] if len(set(short)) == len(short) else list(sides)


def _outside(name: str) -> Side | None:
    """A model or finished measurements that no store has to know."""
    from eval.lm_eval_logs import results_files

    folder = Path(name)
    if name.startswith("hub:"):
        return Side(name, {0: {"hub": name.removeprefix("hub:")}})
    if (base_of(folder) / "config.json").is_file() and any(base_of(folder).glob("*.safetensors")):
        return Side(name, {0: {"path": name}})
    if (folder / "items.parquet").is_file() and (folder / "evaluation.json").is_file():
        return Side(name, evaluations={0: folder})
    return Side(name, logs={0: folder}) if results_files(folder) else None


def _seeds_of_one_arm(parts: Sequence[str]) -> Side:
    """Folders in the order of their seeds."""
    sides = [_outside(part) for part in parts]
    for part, side in zip(parts, sides, strict=True):
        if side is None:
            what = "is no model folder and holds no measurements"
            raise RecipeError(part, what, "folders of one kind, separated by commas", "correct the path")
    seeds = [side for side in sides if side]
    kinds = {(bool(side.models), bool(side.evaluations), bool(side.logs)) for side in seeds}
    if len(kinds) > 1:
        what = "some are models, others measurements"
        raise RecipeError(",".join(parts), what, "folders of one kind", "name models only, or measurements only")
    stems = {re.sub(r"[-_.]?(seed)?[-_.]?\d+$", "", part) for part in parts}
    return Side(
        stems.pop() if len(stems) == 1 else parts[0],
        models={seed: side.models[0] for seed, side in enumerate(seeds) if side.models},
        evaluations={seed: side.evaluations[0] for seed, side in enumerate(seeds) if side.evaluations},
        logs={seed: side.logs[0] for seed, side in enumerate(seeds) if side.logs},
    )


def _in_another_store(name: str) -> Side | None:
    """STORE/RECIPE/STAGE."""
    for root in Path(name).parents:
        stage = str(Path(name).relative_to(root))
        if (root / LOCKS).is_dir() and (side := _in_store(name, stage, Store(root))):
            return side
    return None


def _in_store(name: str, stage: str, store: Store) -> Side | None:
    """RECIPE/STAGE: its newest configuration, at every seed."""
    cells = sorted(store.manifests(), key=lambda cell: cell[1]["provenance"]["started"])
    made = {manifest["digest"]: manifest for _, manifest in cells}
    named = [cell for cell in cells if _stage(cell[1]) == stage]
    models, others = _newest([cell for cell in named if cell[1]["kind"] in ("model", "classifier")], made)
    digests = {manifest["digest"] for _, manifest in models}
    measured = [cell for cell in named if cell[1]["kind"] == "evaluation"]
    if models:  # a pretrained stage has none
        measured = [cell for cell in measured if cell[1]["inputs"]["model"] in digests]
    evaluations, more = _newest(measured, made)
    if not models and not evaluations:
        return None
    return Side(
        name,
        {_seed(manifest): {"path": str(folder)} for folder, manifest in models},
        {_seed(manifest): folder for folder, manifest in evaluations},
        others=others or more,
    )


def _stage(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['recipe']}/{manifest['stage'].removeprefix(EVALUATE)}"


def _seed(manifest: Mapping[str, Any]) -> int:
    return int(match[1]) if (match := re.search(r"-seed(\d+)$", manifest["label"])) else 0


def _newest(cells: Sequence[Found], made: Mapping[str, Mapping[str, Any]]) -> tuple[list[Found], int]:
    """Of cells in order of their start, those made in the same way as the last, and how many other ways there are. Seeds of two
    configurations together would be no method's result."""
    ways = [_way(manifest["identity"], made) for _, manifest in cells]
    return [cell for cell, way in zip(cells, ways, strict=True) if way == ways[-1]], max(0, len(set(ways)) - 1)


def _way(identity: Mapping[str, Any], made: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of how a cell is made whatever the seed, its inputs included."""

    def seedless(value: Any) -> Any:
        if isinstance(value, list):
            return [seedless(child) for child in value]
        if not isinstance(value, dict):
            return value
        source = made.get(value["stage"]) if isinstance(value.get("stage"), str) else None
        return {key: seedless(child) for key, child in value.items()} | (
            {"stage": _way(source["identity"], made)} if source else {}
        )

    return digest_of({key: seedless(value) for key, value in identity.items() if key != "seed"})
