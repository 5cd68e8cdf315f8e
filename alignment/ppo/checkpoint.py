"""Checkpoints as files: written atomically, checked by digest, pruned. What is inside one is the caller's business.

    <folder>/step-40-<sha256 of the file>.pt

The digest is a part of the name: one rename puts the file and its digest in place together, so no kill can leave one without
the other, and a reader needs nothing but the folder. Shuffles, prompts and sampler seeds are derived from the cell's seed and
the step, so the step stands for the data position and for all of their random states.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{64})\.pt")


class _Saved(NamedTuple):
    step: int
    digest: str
    path: Path


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    keep: how many are left after a save; with 2 there is one to fall back to. say: told of every damaged one, in a sentence.
    """

    def __init__(self, folder: Path, keep: int = 2, say: Callable[[str], None] = print) -> None:
        if keep < 1:
            raise ValueError(f"keep {keep}: at least the newest checkpoint has to stay")
        self._folder, self._keep, self._say = folder, keep, say
        self._damaged: set[Path] = set()

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes the state after `step` finished steps; a kill at any instant leaves what was there, or this one beside it.

        Later steps, left by a run that went back to an earlier checkpoint, go with the old ones.
        Raises OSError (a full disk, say): the earlier checkpoints are then untouched.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"step-{step}.tmp"
        try:
            path = self._folder / f"step-{step}-{_write(state, temporary)}.pt"
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(self._folder)  # before the old ones go: else a power cut could take both
        self._prune(step, path)
        return path

    def load(self, device: str) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint whose bytes are those that were written; None if there is none.

        Damaged ones are told and skipped; they go with the next save, when a good one has taken their place.
        """
        found: tuple[int, dict[str, Any]] | None = None
        told: list[tuple[_Saved, str]] = []
        for saved in self._saved():
            complaint = _complaint(saved)
            if complaint is None:
                found = saved.step, torch.load(saved.path, map_location=device, weights_only=True)
                break
            told.append((saved, complaint))
        self._damaged = {saved.path for saved, _ in told}
        for index, (saved, complaint) in enumerate(told):
            after = told[index + 1][0].step if index + 1 < len(told) else found[0] if found else None
            remedy = "starting from the beginning" if after is None else f"going back to step {after}"
            self._say(f"checkpoint of step {saved.step} is damaged ({complaint}): {remedy}")
        return found

    def newest(self) -> int | None:
        """Step of the newest checkpoint, damaged or not."""
        return max((saved.step for saved in self._saved()), default=None)

    def _saved(self) -> list[_Saved]:
        """Newest first."""
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        matches = [match for match in map(_NAME.fullmatch, names) if match]
        return sorted((_Saved(int(m[1]), m[2], self._folder / m[0]) for m in matches), reverse=True)

    def _prune(self, step: int, path: Path) -> None:
        earlier = [saved.path for saved in self._saved() if saved.step < step and saved.path not in self._damaged]
        kept = {path, *earlier[: self._keep - 1]}
        for other in [*(saved.path for saved in self._saved()), *self._folder.glob("step-*.tmp")]:
            if other not in kept:
                other.unlink(missing_ok=True)
        self._damaged.clear()


class _HashingFile:
    """Takes torch.save's bytes, which come in order, and hashes them on their way: no second read of a large file.

    torch turns an error of the file into a RuntimeError without the cause, or writes on while it unwinds. So the first
    error is kept, what follows is dropped, and the caller raises it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self._file.write(data)
                self.sha256.update(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """torch.save asks for it; the file is flushed once, at the end."""


def _write(state: dict[str, Any], path: Path) -> str:
    """Puts the state on the disk for good and returns the digest of the file's bytes."""
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        torch.save(state, hashing)  # pyright: ignore[reportArgumentType]  # it needs no more than write and flush
        if hashing.error is not None:
            raise hashing.error
        file.flush()
        os.fsync(file.fileno())
    return hashing.sha256.hexdigest()


def _complaint(saved: _Saved) -> str | None:
    """What is wrong with a checkpoint's bytes; None if nothing is."""
    try:
        with saved.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if digest == saved.digest else "digest differs"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
