"""`Artifact`: the one type that passes between stages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ArtifactKind = Literal["model", "classifier", "seq2seq", "reward_model", "dataset", "evaluation", "win_rate", "cost"]


@dataclass(frozen=True)
class Artifact:
    """A finished result on disk.

    digest:     identity of how it was made (see `recipes/pipeline.py`), or of its files when it comes from outside.
    path:       the folder (or data file) that holds it.
    inputs:     digests of the artifacts it was made from, by role.
    summary:    numbers that a later stage or the report needs, for example `train_tokens`.
    provenance: versions, commit, hardware, seconds; recorded, never hashed.
    """

    kind: ArtifactKind
    digest: str
    path: Path
    inputs: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
