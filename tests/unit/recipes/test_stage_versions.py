"""A stage's code must not change what it computes under an old version: the store would serve stale results.

`stage_versions.json` holds, for each stage kind, its version and a digest of its source without comments, docstrings and layout.
After raising a version in recipes/stages.py, write the record anew: `make stage-versions`.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

import pytest

from alignment.lab.data import LAB_VERSION
from recipes.stages import KINDS

ROOT = Path(__file__).parents[3]
RECORD = Path(__file__).with_name("stage_versions.json")


def sources_digest(sources):
    digest = hashlib.sha256()
    for source in sources:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".py", ".yaml"))
        assert files, f"{source} holds no source"
        for file in files:
            digest.update(f"{file.relative_to(ROOT)}\n".encode())
            digest.update((code_of(file.read_text()) if file.suffix == ".py" else file.read_text()).encode())
    return digest.hexdigest()


def code_of(text):
    """The program without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and is_text(body[0].value):
            del body[0]
    return ast.dump(tree)


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@cache
def current():
    found = {
        kind: {"version": spec.version, "sources": sources_digest(spec.sources)}
        for kind, spec in KINDS.items()
        if spec.sources
    }
    lab = sorted(
        str(f.relative_to(ROOT))
        for f in (ROOT / "alignment/lab").glob("*.py")
        if f.name not in ("stage.py", "config.py")
    )
    found["lab data (LAB_VERSION)"] = {"version": LAB_VERSION, "sources": sources_digest(lab)}
    return found


@pytest.mark.parametrize("kind", [*KINDS, "lab data (LAB_VERSION)"])
def test_changed_code_has_a_new_version(kind):
    if kind in KINDS and not KINDS[kind].sources:
        assert kind == "pretrained"  # names a model, computes nothing
        return
    now, recorded = current()[kind], json.loads(RECORD.read_text()).get(kind)
    assert recorded is not None, f"{kind} is new: run `make stage-versions`"
    if now["sources"] != recorded["sources"]:
        assert now["version"] != recorded["version"], (
            f"the code of {kind} changed: raise its version, then `make stage-versions`"
        )
        pytest.fail(f"the version of {kind} was raised: run `make stage-versions` and commit the record")
    assert now["version"] == recorded["version"]


def test_comments_and_docstrings_do_not_count_but_code_does():
    assert code_of('def f():\n    """Doc."""\n    return 1  # why\n') == code_of("def f():\n\n    return 1\n")
    assert code_of("def f():\n    return 1\n") != code_of("def f():\n    return 2\n")


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
