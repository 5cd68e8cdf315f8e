"""Models and data that come from outside the store: what identifies their contents, and where they lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact, digest_file, digest_of
from alignment.core.config import DataRef, ModelRef
from alignment.core.errors import DataError, ModelError
from alignment.core.store import write_atomically
from alignment.data.reading import existing_path, resolve_paths
from alignment.models.layout import base_of, parts_of
from eval.task_files import made_of

_MODEL_FILES: list[str] = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_PATIENCE = 10.0  # seconds
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


class Externals:
    """Resolves references, each once. File digests are remembered by path, size and time of change in `memory`.

    fetch: False = for a check: nothing is downloaded; the hub is only asked whether it has what the cache lacks, and a reference
    about which it cannot be asked is left in `unreached`, as (where, name). A model has its name for a digest then, and the
    folder of one that the cache lacks is not there.
    """

    def __init__(self, memory: Path | None = None, fetch: bool = True) -> None:
        self._memory, self._fetch = memory, fetch
        self.unreached: list[tuple[str, str]] = []
        self._known: dict[str, str] = {}
        self._resolved: dict[str, tuple[Artifact | None, dict[str, Any]]] = {}
        if memory is not None and memory.exists():
            try:
                known = json.loads(memory.read_text())
            except (OSError, ValueError):
                known = None
            self._known = known if isinstance(known, dict) else {}

    def model(self, reference: ModelRef, where: str) -> Artifact:
        """Where a model from outside lies. Raises ModelError if it is not to be had."""
        artifact, _ = self.resolve(reference, where)
        assert artifact is not None
        return artifact

    def task_file_digest(self, name: str, where: str) -> str:
        """What identifies a user's task file: everything in its folder, which it may call, the files that it includes with theirs,
        and the data files that they name. Raises DataError if one is not there."""
        config, sources = made_of(existing_path(name, where), where)
        files = {p for path in sources for p in path.parent.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        files |= {existing_path(file, f"{where}: {Path(name).name}") for file in _data_files(config)}
        return digest_of({str(p): self._digest(p) for p in sorted(files)})

    def resolve(self, reference: ModelRef | DataRef, where: str) -> tuple[Artifact | None, dict[str, Any]]:
        """(where it lies, what identifies it). Raises ModelError or DataError if it is not to be had."""
        key = reference.model_dump_json(exclude={"split", "rows"}) + type(reference).__name__
        if key not in self._resolved:
            if isinstance(reference, ModelRef):
                self._resolved[key] = self._model(reference, where)
            else:
                self._resolved[key] = self._data(reference, where)
        return self._resolved[key]

    def _model(self, reference: ModelRef, where: str) -> tuple[Artifact, dict[str, Any]]:
        if reference.path is not None:
            folder = existing_path(reference.path, where)
            if not (base_of(folder) / "config.json").is_file():
                raise ModelError(
                    where,
                    f"{folder} is no model folder: it has no config.json",
                    "a folder in Hugging Face format",
                    "correct the path",
                )
        elif self._fetch:
            folder = hub_snapshot(reference, where)
        else:
            identity = {"hub": self._asked(reference, where), "revision": reference.revision}
            folder = cached_snapshot(reference) or _place_in_cache(reference)
            return Artifact("model", f"hub:{reference.hub}", folder), identity
        _require_model_files(folder, where)
        files = sorted({path for part in parts_of(folder) for pattern in _MODEL_FILES for path in part.glob(pattern)})
        digest = digest_of({str(path.relative_to(folder)): self._digest(path) for path in files})
        return Artifact("model", digest, folder), {"model": digest}

    def _data(self, reference: DataRef, where: str) -> tuple[Artifact | None, dict[str, Any]]:
        if reference.lab is not None:
            from alignment.lab.data import LAB_VERSION

            return None, {"lab": reference.lab, "lab_version": LAB_VERSION}
        if reference.path is not None:
            # the suffix says how the bytes are read
            return None, {"files": [[path.suffix, self._digest(path)] for path in resolve_paths(reference, where)]}
        revision = hub_revision(reference, where) if self._fetch else self._asked(reference, where)
        return Artifact("dataset", revision, Path()), {"hub": reference.hub, "revision": revision}

    def _asked(self, reference: ModelRef | DataRef, where: str) -> str:
        """The name of a hub reference, once it is sure that cache or hub have it or that nobody can be asked."""
        name = reference.hub or ""
        if not hub_has(reference, where):
            self.unreached.append((where, f"hub:{name}"))
        return name

    def _digest(self, path: Path) -> str:
        status = path.stat()
        key = f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
        if key not in self._known:
            self._known[key] = digest_file(path)
            if self._memory is not None:
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._memory, json.dumps(self._known))
        return self._known[key]


def _require_model_files(folder: Path, where: str) -> None:
    """Weights and a tokenizer are there: found out now, not when a stage loads them."""
    if not list(base_of(folder).glob("*.safetensors")):
        remedy = "fetch the whole model, or convert its weights"
        raise ModelError(where, f"{folder} has no *.safetensors", "weights in safetensors format", remedy)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        expected = f"one of {', '.join(_TOKENIZER_FILES)}"
        raise ModelError(where, f"{folder} has no tokenizer", expected, "save the tokenizer beside the model")


def _data_files(config: Mapping[str, Any]) -> Iterator[str]:
    """Local files under a task's `dataset_kwargs.data_files`; lm-eval reads them relative to the working directory."""
    kwargs = config.get("dataset_kwargs")
    named = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    for entry in named.values() if isinstance(named, dict) else [named]:
        for file in entry if isinstance(entry, list) else [entry]:
            if isinstance(file, str) and "://" not in file:
                yield file


def hub_has(reference: ModelRef | DataRef, where: str) -> bool:
    """Whether cache or hub have it; False where the hub cannot be asked. Raises ModelError or DataError if it says no."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if cached_snapshot(reference) is not None:
        return True
    of_models, name = isinstance(reference, ModelRef), reference.hub or ""
    kind = "model" if of_models else "dataset"
    try:
        HfApi().repo_info(name, repo_type=kind, revision=reference.revision, timeout=_PATIENCE)
        return True
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        what = f"the hub has no {kind} {name!r}: {str(error).strip().splitlines()[0]}"
        expected, remedy = f"a {kind} that the hub knows", "check name, revision and access, or give `path:`"
        raise (ModelError if of_models else DataError)(where, what, expected, remedy) from None
    except (HfHubHTTPError, HTTPError, OSError):
        return False


def cached_snapshot(reference: ModelRef | DataRef) -> Path | None:
    """Where the local cache has it, or a part of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    kind = "model" if isinstance(reference, ModelRef) else "dataset"
    options = {"repo_type": kind, "revision": reference.revision, "local_files_only": True}
    try:
        return Path(snapshot_download(reference.hub or "", **options))
    except (OSError, ValueError, HFValidationError):
        return None


def _place_in_cache(reference: ModelRef) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=reference.hub or "", repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "snapshots" / (reference.revision or "main")


def hub_snapshot(reference: ModelRef, where: str) -> Path:
    """The local folder of a hub model: from the cache, or downloaded. Raises ModelError if it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert reference.hub is not None

    def snapshot(local: bool) -> Path:
        name = reference.hub or ""
        options = {"revision": reference.revision, "allow_patterns": _MODEL_FILES, "local_files_only": local}
        return Path(snapshot_download(name, **options))

    try:
        try:
            folder = snapshot(local=True)
            if list(folder.glob("*.safetensors")):
                return folder  # a cached snapshot may hold a part of the model only
        except LocalEntryNotFoundError:
            pass
        return snapshot(local=False)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            where, f"hub model {reference.hub!r} is not in the local cache and cannot be fetched: {reason}",
            "a model name that the hub knows, and a network or a filled cache", "check name, revision and network, or give `path:`",
        ) from None  # fmt: skip


def hub_revision(reference: DataRef, where: str) -> str:
    """The commit that a hub data set's revision means now. Offline, the cached one."""
    from httpx import HTTPError
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    assert reference.hub is not None
    try:
        try:
            if constants.HF_HUB_OFFLINE:
                raise OfflineModeIsEnabled
            return str(HfApi().dataset_info(reference.hub, revision=reference.revision, timeout=20).sha)
        except OfflineModeIsEnabled:
            folder = snapshot_download(
                reference.hub, repo_type="dataset", revision=reference.revision, local_files_only=True
            )
            return Path(folder).name
    except (HfHubHTTPError, HTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise DataError(
            where, f"hub data set {reference.hub!r} cannot be reached: {str(error).strip().splitlines()[0]}",
            "a data set that the hub knows, and a network or a filled cache", "check name, revision and network, or give `path:`",
        ) from None  # fmt: skip
