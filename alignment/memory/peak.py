"""How much memory a process really took."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """From now on: the most resident memory above what is resident now, in MiB. On a GPU what torch held there at most. None where
    the system does not tell (Linux does)."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # sets the high-water mark back to what is resident
        self._before = _resident("VmRSS")
        if _cuda():
            import torch

            torch.cuda.reset_peak_memory_stats()

    def mib(self) -> float | None:
        if _cuda():
            import torch

            return round(torch.cuda.max_memory_allocated() / 2**20, 1)
        most = _resident("VmHWM")
        return None if most is None or self._before is None else round((most - self._before) / 1024, 1)


def _resident(entry: str) -> int | None:
    """KiB."""
    if not _STATUS.exists():
        return None
    return next((int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(entry)), None)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
