"""Starting one run of either side, in a process of its own: fresh memory, and threads set before Python starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

from alignment.core.errors import SuiteError
from alignment.core.provenance import cores
from benchmarks.ppo.cases import CACHE, Case
from benchmarks.ppo.outcome import Outcome, read_outcome

Side = Literal["ours", "peer"]
SIDES: tuple[Side, Side] = ("ours", "peer")
TRL = "1.12.0"
_ROOT = Path(__file__).parents[2]
_PEER = CACHE / f"trl-{TRL}"
_TAIL = 3000  # characters of a failed process's output


def fetch_peer() -> None:
    """Unpacks trl 1.12 into the cache, once. It is not installed: the environment keeps the trl that the suite uses."""
    if _PEER.exists():
        return
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, f"trl=={TRL}"]
        subprocess.run(command, check=True)
        unpacked = Path(folder) / "unpacked"
        with zipfile.ZipFile(next(Path(folder).glob("trl-*.whl"))) as wheel:
            wheel.extractall(unpacked)
        unpacked.rename(_PEER)


def run_side(side: Side, case: Case, seed: int) -> Outcome:
    """One process of one side. Raises SuiteError, with the end of its output, if it does not come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        words = (case.name, f"{folder}/run", str(seed))
        return read_outcome(run_module(f"benchmarks.ppo.{side}", *words, peer=side == "peer"))


def run_module(module: str, *words: str, peer: bool = False) -> str:
    """Output of `python -m module words`, where a peer finds its own trl first."""
    path = [*([str(_PEER)] if peer else []), str(_ROOT)]
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env=os.environ | _environment() | {"PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SuiteError(
            f"{module} {' '.join(words)}",
            f"ended with code {done.returncode}; the end of its output:\n{done.stdout[-_TAIL:]}",
            "a run to the end",
            "run it alone",
        )
    return done.stdout


def _environment() -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(cores()),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
