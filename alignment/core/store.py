"""The artifact store: a folder in which a finished result is found by the digest of how it was made.

    <root>/<recipe>/<label>-<12 hex>/    a finished cell; its manifest.json was written last and names every file
    <root>/.partial/<24 hex>/            a cell in the making, or interrupted; it resumes from its own checkpoints
    <root>/.locks/<24 hex>.lock          held (flock) by the process that makes the cell; released by the kernel on any death

A folder without a manifest is never taken for a result, and one whose files do not match its manifest is made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from alignment.core.artifact import Artifact, digest_file
from alignment.core.errors import RecipeError

MANIFEST = "manifest.json"
_SCHEMA = 1


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if root.exists() and not root.is_dir():
            raise RecipeError(f"--store {root}", "is a file", "a folder, or a name for a new one", "name another place")

    def find(self, digest: str) -> Artifact | None:
        """The finished artifact of that digest, wherever in the store it lies."""
        for folder in self._folders(f"-{digest[:12]}"):
            manifest = read_manifest(folder)
            if manifest and manifest["digest"] == digest and is_whole(folder, manifest):
                return to_artifact(folder, manifest)
        return None

    def manifests(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Folder and manifest of every finished cell."""
        for folder in self._folders():
            manifest = read_manifest(folder)
            if manifest and is_whole(folder, manifest):
                yield folder, manifest

    def partial(self, digest: str) -> Path:
        """Where that cell is made."""
        return self.root / ".partial" / digest[:24]

    @contextmanager
    def claim(self, digest: str) -> Iterator[Path]:
        """Hold the cell's lock and give its work folder. Waits while another process makes the same cell."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{digest[:24]}.lock"):
            yield self.partial(digest)

    def finish(self, digest: str, recipe: str, label: str, record: Mapping[str, Any]) -> Artifact:
        """Turn the work folder of `digest` into a finished cell: hash its files, write the manifest, move it into place.

        record: kind, stage, stage_kind, seed, identity, inputs, summary, provenance. Call while holding the claim.
        """
        work = self.partial(digest)
        shutil.rmtree(work / "scratch", ignore_errors=True)
        (work / "progress.json").unlink(missing_ok=True)
        files = {
            str(path.relative_to(work)): {"bytes": path.stat().st_size, "sha256": digest_file(path)}
            for path in sorted(work.rglob("*"))
            if path.is_file() and path.name not in (MANIFEST, "log.txt")
        }
        manifest = {"schema": _SCHEMA, "digest": digest, "recipe": recipe, "label": label, **record, "files": files}
        for name in files:
            _sync(work / name)
        write_atomically(work / MANIFEST, json.dumps(manifest, indent=1))
        return self._move(work, manifest)

    def recover(self, digest: str) -> Artifact | None:
        """Complete a cell whose process died between writing the manifest and moving the folder. Needs the claim: without it,
        another process may be moving the same folder."""
        work = self.partial(digest)
        manifest = read_manifest(work)
        return self._move(work, manifest) if manifest and is_whole(work, manifest) else None

    def _move(self, work: Path, manifest: dict[str, Any]) -> Artifact:
        target = self.root / manifest["recipe"] / f"{manifest['label']}-{manifest['digest'][:12]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            found = read_manifest(target)
            if found and found["digest"] == manifest["digest"] and is_whole(target, found):
                shutil.rmtree(work)
                return to_artifact(target, found)
            shutil.rmtree(target)  # damaged
        os.replace(work, target)
        _sync(target.parent)
        return to_artifact(target, manifest)

    def _folders(self, suffix: str = "") -> Iterator[Path]:
        for parent, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if MANIFEST in files:
                folders.clear()
                if parent.endswith(suffix):
                    yield Path(parent)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("schema") == _SCHEMA and {"digest", "files"} <= manifest.keys()
    return manifest if ours else None


def is_whole(folder: Path, manifest: Mapping[str, Any], contents: bool = False) -> bool:
    """Every file that the manifest names is there with its size; with `contents`, also with its sha256 (slow)."""
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return False
        if contents and digest_file(path) != entry["sha256"]:
            return False
    return True


def to_artifact(folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    return Artifact(
        kind=manifest["kind"],
        digest=manifest["digest"],
        path=folder,
        inputs=manifest["inputs"],
        summary=manifest["summary"],
        provenance=manifest["provenance"],
    )


def write_atomically(path: Path, text: str) -> None:
    """All of `text` or nothing, also when the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # its own: two processes may write the same file
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
