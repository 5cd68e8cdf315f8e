"""Which packages lm-eval's task files need: read from the imports of the modules that they call, without running them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FUNCTION = (
    "!function "  # how a function is written in a configuration read without lm-eval: then file without .py, and name
)
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "bs4": "beautifulsoup4"}


def missing_packages(config: Mapping[str, Any]) -> list[str]:
    """Packages that a task's functions import and that are not installed, by the names that pip knows."""
    modules = {Path(name.rpartition(".")[0] + ".py") for name in _functions(config)}
    seen: set[Path] = set()
    missing = {name for module in modules for name in _imported(module, seen) if not _installed(name)}
    return sorted(_DISTRIBUTIONS.get(name, name) for name in missing)


def _functions(value: Any) -> Iterator[str]:
    """The `!function` values in a configuration, as file without .py and name of the function."""
    if isinstance(value, str) and value.startswith(FUNCTION):
        yield value.removeprefix(FUNCTION)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _functions(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _functions(inner)


def _imported(module: Path, seen: set[Path]) -> Iterator[str]:
    """Top-level packages that a task's module imports when it is loaded, those of lm-eval's own task modules included."""
    if module in seen or not module.is_file():
        return
    seen.add(module)
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [base, *(f"{base}.{alias.name}" if node.module else base + alias.name for alias in node.names)]
        for name in names:
            inside = _module_file(name, module)
            if inside is not None:
                yield from _imported(inside, seen)
            elif not name.startswith("."):
                yield name.partition(".")[0]


def _module_file(name: str, importer: Path) -> Path | None:
    """The file of a module beside the importing one, or among lm-eval's tasks; None for all others."""
    if name.startswith("."):
        up = len(name) - len(name.lstrip(".")) - 1
        root, parts = importer.parents[up], name.lstrip(".").split(".")
    elif name.startswith("lm_eval.tasks."):
        spec = importlib.util.find_spec("lm_eval")
        if spec is None or spec.origin is None:
            return None
        root, parts = Path(spec.origin).parent, name.split(".")[1:]
    else:
        root, parts = importer.parent, name.split(".")
    file = root.joinpath(*[part for part in parts if part]).with_suffix(".py")
    return file if file.is_file() else None


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
