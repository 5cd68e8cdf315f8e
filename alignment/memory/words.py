"""A memory estimate in words, with advice for this machine. No torch."""

from __future__ import annotations

import subprocess

from alignment.core.provenance import memory_gib
from alignment.memory.estimate import Memory, Training

_TIGHT = 0.8  # of the machine: other cells, files and the system want some, too
GIB, MIB = 2**30, 2**20


def size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def told(training: Training, memory: Memory, machine: float) -> list[str]:
    """For a run's log."""
    parts = ", ".join(f"{name} {size(count)}" for name, count in memory.parts.items())
    needs = f"at most {size(memory.peak)} of {size(machine)}: {advice(training, memory, machine)}"
    return [
        f"{memory.trainable:,} of {memory.parameters:,} parameters are trained ({memory.share:.2%})",
        f"memory: {parts}; {needs}",
    ]


def verdict(memory: Memory, machine: float) -> str:
    """Whether it fits so many bytes."""
    return "fits" if memory.peak <= _TIGHT * machine else "tight" if memory.peak <= machine else "too large"


def advice(training: Training, memory: Memory, machine: float) -> str:
    """The verdict, and what helps where it does not fit."""
    found = verdict(memory, machine)
    return found if found == "fits" else f"{found}: {_remedy(training, memory)}"


def machine_bytes() -> float:
    """The memory that models lie in: the first GPU's, or the machine's."""
    try:
        asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]
        return float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout) * MIB
    except (OSError, ValueError, subprocess.CalledProcessError):
        return memory_gib() * GIB


def _remedy(training: Training, memory: Memory) -> str:
    parts = memory.parts
    if parts.get("activations", 0) > memory.peak / 2:
        return "lower batch_size and raise gradient_accumulation by as much, or shorten max_length"
    if training.peft is None:
        return "train an adapter: peft: {method: lora}"
    if training.quantization is None:
        return "hold the base in few bits: quantization: {bits: 4}"
    return "use a smaller model or a larger machine"
