"""`Recipe`: the typed model of a recipe file, and how a file becomes one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from alignment.core.config import BOOL_FOR_NUMBER, Config, StageConfig
from alignment.core.errors import RecipeError
from eval.config import Comparison, Evaluation
from recipes.processes import SHIPPED as ACCELERATE
from recipes.processes import with_layout
from recipes.stages import KINDS

SHIPPED = Path(__file__).parent
_STAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_SHOWN = 80  # characters of a wrong value


class _Loader(yaml.SafeLoader):
    """A key that stands twice in one block is a mistake, not an override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class Recipe(Config):
    """One experiment: which stages make which models, how they are measured, which differences are the question."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
    question: str = Field("", description="what the report is to answer, as one sentence")
    minutes: float | None = Field(
        None, gt=0, description="what a first run takes on two CPU cores, install not counted"
    )
    seeds: list[int] = Field([0], min_length=1)
    stages: dict[str, StageConfig] = {}
    evaluation: Evaluation | None = None
    comparison: Comparison = Comparison()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("each seed once")
        if min(seeds) < 0:
            raise ValueError("seeds of 0 or more")
        return seeds


def load_recipe(name: str, overrides: Sequence[str] = ()) -> tuple[Recipe, str]:
    """The recipe of that path or shipped name (`lab/sft-vs-rlhf`) with `key.path=value` overrides, and its source text.

    Raises RecipeError, naming file and key, for anything that does not fit.
    """
    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.load(text, _Loader)
    except UnicodeDecodeError as error:
        raise RecipeError(name, f"not UTF-8 at byte {error.start}", "a YAML file", "convert the file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}, line {mark.line + 1}" if mark else name
        what = f"not YAML: {getattr(error, 'problem', error)}"
        raise RecipeError(place, what, "a YAML file", "mend the line") from None
    except (ValueError, OverflowError) as error:  # what looks like a date or a number, and is none
        raise RecipeError(name, f"not YAML: {error}", "a YAML file", "mend or quote the value") from None
    except RecursionError:
        raise RecipeError(name, "blocks nested too deep", "a YAML file", "close brackets and quotes") from None
    if not isinstance(raw, dict):
        raise RecipeError(name, "not a mapping", "keys such as name, seeds, stages", "see recipes/lab for examples")
    for override in overrides:
        _apply_override(raw, override)
    return parse_recipe(raw, name), text


def parse_recipe(raw: dict[str, Any], where: str) -> Recipe:
    """A checked recipe from plain YAML values."""
    raw = dict(raw)
    stages = raw.pop("stages", {}) or {}
    if not isinstance(stages, dict):
        raise RecipeError(
            f"{where}: stages", "not a mapping", "stage names with their settings", "indent the stages by name"
        )
    for name in stages:
        if not re.fullmatch(_STAGE_NAME, str(name)):
            expected = "letters, digits, '.', '_' and '-', the first no dot"
            raise RecipeError(f"{where}: stages", f"{str(name)!r} is no name for a stage", expected, "rename it")
    parsed = {str(name): _parse_stage(name, block, where) for name, block in stages.items()}
    recipe = _validate(Recipe, raw, where)
    return recipe.model_copy(update={"stages": parsed})


def find_recipe(name: str) -> Path:
    candidates = [Path(name), SHIPPED / name, SHIPPED / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    shipped = shipped_recipes()
    close = difflib.get_close_matches(name, shipped, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]}?" if close else f"shipped recipes: {', '.join(shipped)}"
    raise RecipeError(name, "no such recipe", "a YAML file or the name of a shipped recipe", remedy)


def shipped_recipes() -> list[str]:
    return sorted(
        str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.glob("*/*.yaml") if path.parent != ACCELERATE
    )


def _parse_stage(name: object, block: Any, where: str) -> StageConfig:
    place = f"{where}: stages.{name}"
    if not isinstance(block, dict) or "kind" not in block:
        raise RecipeError(place, "has no kind", f"kind: one of {', '.join(KINDS)}", "add the line `kind: ...`")
    kind = block["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        remedy = f"did you mean {close[0]}?" if close else "correct the kind"
        raise RecipeError(f"{place}.kind", f"unknown kind {kind!r}", f"one of {', '.join(KINDS)}", remedy)
    return with_layout(_validate(KINDS[kind].config_model(), block, place), place)


def _validate(model: type[Any], raw: Mapping[str, Any], where: str) -> Any:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = error.errors()
        raise _to_recipe_error(model, problems[0], where, len(problems) - 1) from None


def _to_recipe_error(model: type[BaseModel], problem: Any, where: str, more: int) -> RecipeError:
    """pydantic's first problem in the words of this suite."""
    location, given = [str(part) for part in problem["loc"]], problem.get("input")
    if problem["type"] == BOOL_FOR_NUMBER:
        location, given = [*location, problem["ctx"]["field"]], problem["ctx"]["given"]
    separator = "." if "stages." in where else ": "
    place = f"{where}{separator}{'.'.join(location)}" if location else where
    suffix = f" (and {more} more problem{'s' * (more > 1)} in this block)" if more else ""
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {close[0]}?" if close else "remove it"
        return RecipeError(place, f"unknown key{suffix}", f"one of {', '.join(known)}", remedy)
    if problem["type"] == "missing":
        return RecipeError(place, f"missing{suffix}", "a value: this key has no default", f"add `{location[-1]}: ...`")
    message = problem["msg"].removeprefix("Value error, ")
    shown = f": got {_short(given)}" if isinstance(given, str | int | float | bool | None) else ""
    unquoted = problem["type"] == "string_type" and isinstance(
        given, int | float
    )  # YAML reads yes and no as true and false
    remedy = "write it in quotes" if unquoted else "correct the value"
    return RecipeError(place, f"not valid{shown}{suffix}", message, remedy)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Names of the fields of the nested model at `location`; of a tagged union, those of the model with the tag in it."""
    models = [model]
    for part in location:
        tagged = [each for each in models if part in _tags(each)]
        if len(models) > 1 and tagged:
            models = tagged
            continue
        inside = [field.annotation for each in models for name, field in each.model_fields.items() if name == part]
        models = [nested for annotation in inside for nested in _models_in(annotation)] or models
    return list(dict.fromkeys(name for each in models for name in each.model_fields))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _tags(model: type[BaseModel]) -> set[str]:
    return {
        value for field in model.model_fields.values() for value in get_args(field.annotation) if isinstance(value, str)
    }


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    where = f"--set {override}"
    if not equals or not key:
        raise RecipeError(
            where, "not of the form key=value", "for example stages.ppo.kl.coefficient=0.2", "add the `=`"
        )
    *parents, last = key.split(".")
    block: Any = raw
    for part in parents:
        block = block.setdefault(part, {}) if isinstance(block, dict) else None
        if not isinstance(block, dict):
            raise RecipeError(
                where, f"{part!r} is not a block of settings", "a path through the recipe's blocks", "correct the path"
            )
    if parents[:1] == ["stages"] and len(parents) > 1 and "kind" not in raw["stages"].get(parents[1], {}):
        raise RecipeError(where, f"the recipe has no stage {parents[1]!r}", "the name of a stage", "correct the name")
    try:
        block[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(
            where, f"{value!r} is not a YAML value", "for example 0.2, true or [0, 1]", "quote it"
        ) from None
