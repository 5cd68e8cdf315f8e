"""What every benchmark leaves: provenance, a JSON file, and tables between the markers of a README. No torch here."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.core.provenance import code_commit, cores, hardware


def provenance(packages: Sequence[str]) -> dict[str, Any]:
    """Commit, date, machine, and versions of the packages that decide the results."""
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    return {
        "commit": code_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": hardware(),
        "threads": cores(),
        "versions": versions,
    }


def origin(results: Mapping[str, Any]) -> str:
    """The provenance in one sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"Commit {results['commit']}, {results['date']}, {results['machine']}. {packages}."


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Numbers to six digits: more are noise."""
    path.write_text(json.dumps(rounded(value), indent=1) + "\n")


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(text: str, name: str, inner: str) -> str:
    """`text` with what lies between `<!-- name -->` and `<!-- /name -->` replaced. Raises ValueError if they are missing."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no markers <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda found: f"{found[1]}\n{inner}\n\n{found[2]}", text)
