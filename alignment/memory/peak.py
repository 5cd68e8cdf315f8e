"""How much memory a process really took."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS, _CLEAR, _MAPPINGS = (Path("/proc/self") / name for name in ("status", "clear_refs", "smaps"))


class Peak:
    """From now on: the most resident memory above what is resident now, in MiB; but for pages of libraries, of which a forked process
    begins with none and meets most again. On a GPU what torch held there at most. None where the system does not tell (Linux does)."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # sets the high-water mark back to what is resident
        self._before = _resident("VmRSS")
        self._libraries = _of_libraries()
        if _cuda():
            import torch

            torch.cuda.reset_peak_memory_stats()

    def mib(self) -> float | None:
        if _cuda():
            import torch

            return round(torch.cuda.max_memory_allocated() / 2**20, 1)
        most = _resident("VmHWM")
        if most is None or self._before is None:
            return None
        return round((most - self._before - (_of_libraries() - self._libraries)) / 1024, 1)


def _resident(entry: str) -> int | None:
    """KiB."""
    if not _STATUS.exists():
        return None
    return next((int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(entry)), None)


def _of_libraries() -> int:
    """KiB of shared libraries that are resident."""
    found, counts = 0, False
    for line in _MAPPINGS.read_text().splitlines() if _MAPPINGS.exists() else ():
        if "-" in line.partition(" ")[0]:  # the first line of a mapping: from-to, then what it is
            counts = ".so" in line.rpartition("/")[2]
        elif counts and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
