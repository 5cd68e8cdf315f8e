"""lm-eval's task files, read without lm-eval: which tasks a name stands for, and what is known of them before anything runs.

lm-eval's own index reads some 14,000 files as YAML, which takes 17 seconds. Here their names are read as text, in about one
second and only where a recipe names a task of lm-eval, and then only the files that are wanted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from alignment.core.errors import RecipeError
from alignment.data.reading import existing_path
from eval.task_packages import FUNCTION, missing_packages

FOLDER = Path(__file__).parent / "tasks"
_PREFERRED = ("acc", "exact_match", "gold", "bits_per_byte", "pct_stereotype")
_DEFAULT_METRICS = {"multiple_choice": "acc", "loglikelihood": "acc", "loglikelihood_rolling": "bits_per_byte"}


@dataclass(frozen=True)
class TaskFile:
    """One task. config: its file's keys, includes resolved; functions as `!function <file without .py>.<name>`.

    declared: what the group that it was named by says of it: `chance`, `cluster`, `limit`. pool: the group whose one score
    it is a part of. groups: the files of the groups that it was named by.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    declared: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None
    groups: tuple[Path, ...] = ()

    @property
    def runs_generated_code(self) -> bool:
        return bool(self.config.get("unsafe_code"))

    @property
    def metric(self) -> str:
        """The one it is judged by."""
        listed = self.config.get("metric_list")
        if not listed:
            return _DEFAULT_METRICS.get(self.config.get("output_type", ""), "exact_match")
        names = [str(entry["metric"]).rpartition(".")[2] for entry in listed]
        return judged_metric(names, {name: entry.get("k") for name, entry in zip(names, listed, strict=True)})


def judged_metric(declared: Sequence[str], k: Mapping[str, Any] | None = None) -> str:
    """Of a task's metrics the one it is judged by: accuracy, exact match, gold, bits per byte, else the first it declares.
    `pass_at_k` is known by its first k."""
    metric = next((metric for metric in _PREFERRED if metric in declared), declared[0])
    if metric != "pass_at_k":
        return metric
    counts = (k or {}).get(metric) or 1
    return f"pass@{counts[0] if isinstance(counts, list) else counts}"


def find(name: str, where: str, own: Sequence[str] = ()) -> list[TaskFile]:
    """The tasks that a name or the path of a task file stands for, groups and tags unfolded, each once.

    own: other names that the recipe knows, for the hint. Raises RecipeError for an unknown name, DataError for a missing file.
    """
    if name.endswith((".yaml", ".yml")):
        found = _from_file(existing_path(name, where), where)
    elif _path_of(name) is None and name not in _members():
        known = {*own, *_index(FOLDER).paths}
        near = get_close_matches(name, known, n=1) or get_close_matches(name, _harness().paths, n=1, cutoff=0.8)
        remedy = f"did you mean {near[0]}?" if near else f"tasks of this suite: {', '.join(sorted(known))}"
        expected = "a task of this recipe, of eval/tasks or of lm-eval"
        raise RecipeError(f"{where}: {name}", "no such task", expected, remedy)
    else:
        found = _unfold(name, where)
    tasks = list({task.name: task for task in found}.values())
    _require_one_metric(tasks, where)
    return tasks


def _require_one_metric(tasks: Sequence[TaskFile], where: str) -> None:
    pools: dict[str, set[str]] = {}
    for task in tasks:
        pools.setdefault(task.pool or "", set()).add(task.metric)
    for pool, metrics in pools.items():
        if pool and len(metrics) > 1:
            what = f"{pool!r} pools tasks that are judged by {' and '.join(sorted(metrics))}"
            raise RecipeError(where, what, "one metric for one score", "pool tasks of one metric")


def require_usable(tasks: Sequence[TaskFile], run_generated_code: bool, where: str) -> None:
    """Raises RecipeError for a task that runs the model's programs without leave, or whose packages are not installed."""
    for task in tasks:
        if task.runs_generated_code and not run_generated_code:
            raise RecipeError(
                f"{where}: {task.name}",
                "runs programs that the model writes, on this machine and as this user",
                "a recipe that allows it",
                "set evaluation.run_generated_code: true, in a container without network or secrets, or leave the task out",
            )
        if missing := missing_packages(task.config):
            named = " ".join(missing)
            what = f"needs packages that are not installed: {', '.join(missing)}"
            raise RecipeError(f"{where}: {task.name}", what, "all packages of the task", f"pip install {named}")


def group_name(path: Path, where: str) -> str | None:
    """None for the file of a single task. Raises RecipeError for a group that lm-eval would not find."""
    name = _read(path, where).get("group")
    if name is not None and path.suffix != ".yaml":
        raise RecipeError(where, f"{path} holds a group", "a group in a file that ends with .yaml", "rename the file")
    return name


@dataclass(frozen=True)
class _Index:
    """paths: the file of each task and group. tags: the tasks that carry each tag."""

    paths: dict[str, Path]
    tags: dict[str, list[str]]


@cache
def _index(folder: Path) -> _Index:
    paths: dict[str, Path] = {}
    tags: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        top = _top(path)
        tagged = [] if top.is_group else [name for name in top.names if name not in paths]  # as in lm-eval's own index
        for name in top.names:
            paths.setdefault(name, path)
        for tag in _tags_of(path):
            tags.setdefault(tag, []).extend(tagged)
    return _Index(paths, tags)


@dataclass(frozen=True)
class _Top:
    """The top-level keys of a task file that an index needs. tags: None where the file says nothing of them."""

    names: list[str]
    is_group: bool
    tags: list[str] | None
    includes: list[str]


@cache
def _top(path: Path) -> _Top:
    """Read line by line."""
    names: list[str] = []
    found: dict[str, list[str]] = {}
    block, is_group = "", False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if block and line.lstrip().startswith("- "):
            found[block].append(_bare(line.lstrip()[2:]))
        if not line or line[0] in " -#\t":
            continue
        key, _, value = line.partition(":")
        key, value = _bare(key), _bare(value)
        is_group = is_group or key == "group"
        block = key if key in ("tag", "include") and not value else ""
        if key in ("task", "group") and value and not value.startswith("["):
            names.append(value)
        elif key in ("tag", "include"):
            found[key] = [_bare(each) for each in value.strip("[]").split(",") if each]
    return _Top(names, is_group, found.get("tag"), found.get("include", []))


def _tags_of(path: Path) -> list[str]:
    """The file's own tags, or those that it includes."""
    top = _top(path)
    if top.tags is not None:
        return top.tags
    included = (path.parent / name for name in top.includes)
    return [tag for file in included if file.is_file() and file != path for tag in _tags_of(file)]


def _bare(value: str) -> str:
    return value.split(" #")[0].strip().strip("\"'")


def _harness() -> _Index:
    spec = importlib.util.find_spec("lm_eval")
    return _index(Path(spec.origin).parent / "tasks") if spec and spec.origin else _Index({}, {})


def _path_of(name: str) -> Path | None:
    return _index(FOLDER).paths.get(name) or _harness().paths.get(name)


def _members() -> dict[str, list[str]]:
    """Tasks by tag."""
    return _harness().tags | _index(FOLDER).tags


def _unfold(name: str, where: str) -> Iterator[TaskFile]:
    path = _path_of(name)
    if path is not None:
        yield from _from_file(path, where)
        return
    if name not in _members():
        raise RecipeError(where, f"the group names an unknown task {name!r}", "tasks of lm-eval", "correct the group")
    for member in sorted(_members()[name]):
        yield from _unfold(member, where)


def _from_file(path: Path, where: str) -> Iterator[TaskFile]:
    config = _read(path, where)
    if "group" not in config:
        if "task" not in config:
            raise RecipeError(
                where, f"{path} names no task", "a key `task:` or `group:`", "see eval/tasks for examples"
            )
        yield TaskFile(str(config["task"]), path, config)
        return
    about = config.get("metadata") or {}
    pooled, declared = about.get("pooled") or [], about.get("tasks") or {}
    for member in _listed(config):
        for task in _member(member, str(config["group"]), path, where):
            name = _member_name(member)
            pool = name if name in pooled else task.pool
            said = {**task.declared, **(declared.get(name) or {})}
            yield replace(task, pool=pool, declared=said, groups=(path, *task.groups))


def _member(member: Any, group: str, path: Path, where: str) -> Iterator[TaskFile]:
    """One entry of a group's list: a name, a name with other settings, a group written there, or a task written there."""
    name = _member_name(member)
    if isinstance(member, str):
        yield from _unfold(name, where)
    elif _path_of(name) is not None:
        for task in _unfold(name, where):
            yield replace(task, config={**task.config, **member})
    elif "group" in member:
        for inner in _listed(member):
            yield from _member(inner, f"{group}::{name}", path, where)
    else:
        yield TaskFile(f"{group}::{name}", path, member)


def _member_name(member: Any) -> str:
    return str(member if isinstance(member, str) else member.get("group") or member.get("task"))


def _listed(config: Mapping[str, Any]) -> list[Any]:
    members = config.get("task") or []
    return [members] if isinstance(members, str) else list(members)


def made_of(path: Path, where: str) -> tuple[dict[str, Any], list[Path]]:
    """A task file with what it includes, and the files that this stands in, itself the last. Raises RecipeError if one is not YAML."""
    files = _files(path, where)
    merged: dict[str, Any] = {}
    for _, config in files:
        merged |= config
    return merged, [file for file, _ in files]


def _read(path: Path, where: str) -> dict[str, Any]:
    return made_of(path, where)[0]


def _files(path: Path, where: str, seen: frozenset[Path] = frozenset()) -> list[tuple[Path, dict[str, Any]]]:
    """What a file includes, then its own keys."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor(
        "!function", lambda loader, _, node: f"{FUNCTION}{path.resolve().parent / str(node.value)}"
    )
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = f"{path} is not YAML: {str(error).splitlines()[0]}"
        raise RecipeError(where, what, "an lm-eval task file", "mend the file") from None
    if not isinstance(config, dict) or path.resolve() in seen:
        what = f"{path} {'includes itself' if path.resolve() in seen else 'is no mapping'}"
        raise RecipeError(where, what, "an lm-eval task file", "mend the file")
    includes = config.pop("include", [])
    found = []
    for name in includes if isinstance(includes, list) else [includes]:
        found += _files(existing_path(str(path.parent / name), where), where, seen | {path.resolve()})
    return [*found, (path, config)]
