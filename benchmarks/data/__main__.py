"""`python -m benchmarks.data` (or `make bench-data`): how much memory SFT on a file larger than it needs.

A JSON Lines file of 2 GB is made on the spot, and deleted in the end. The same training is carried out on it and on its first
hundredth, each in a process of its own; what the large file costs beyond the small one is the figure. The last line of output is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.data.train import WORDS
from benchmarks.publish import between, markdown, origin, provenance, rounded, write_json

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
LIMIT_MIB = 1536
_ANSWER_WORDS = (100, 400)


def main(gigabytes: float, scratch: Path | None) -> None:
    """gigabytes: of the large file; less than 2 for a quick look, which is not published."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        large, small = Path(folder) / "large.jsonl", Path(folder) / "small.jsonl"
        print(f"writing {gigabytes:g} GB to {large}", flush=True)
        _write(large, round(gigabytes * 1e9))
        _write(small, round(gigabytes * 1e7))
        runs = {path.stem: _train(path, Path(folder)) for path in (small, large)}
    extra = runs["large"]["resident_mib"] - runs["small"]["resident_mib"]
    figures = {"extra_resident_mib": extra, "extra_anonymous_mib": _extra_anonymous(runs)}
    figures |= {"limit_mib": LIMIT_MIB, "tokenised_mb_per_second": _speed(runs["large"])}
    results: dict[str, Any] = provenance(("torch", "transformers", "trl", "datasets", "pyarrow"))
    results |= {"runs": runs, "figures": figures}
    if gigabytes >= 2:
        write_json(RESULTS, results)
        README.write_text(between(README.read_text(), "results", _tables(results)))
    print(json.dumps(rounded(figures)))
    if extra > LIMIT_MIB:
        sys.exit(f"{extra:.0f} MiB more than for the small file: above {LIMIT_MIB}")


def rows(seed: int = 0) -> Iterator[str]:
    """Endless lines, no two alike: a question of eight words and an answer of some 250."""
    draw = random.Random(seed)
    while True:
        question, answer = draw.choices(WORDS, k=8), draw.choices(WORDS, k=draw.randint(*_ANSWER_WORDS))
        yield json.dumps({"prompt": " ".join(question), "completion": f" {' '.join(answer)}"}) + "\n"


def _write(path: Path, size: int) -> None:
    lines = rows()
    with path.open("w") as file:
        while file.tell() < size:
            file.writelines(islice(lines, 1000))


def _train(data: Path, folder: Path) -> dict[str, Any]:
    print(f"training on {data.name}", flush=True)
    command = [sys.executable, "-m", "benchmarks.data.train", str(data), str(folder / data.stem)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"bytes": data.stat().st_size} | json.loads(done.stdout.splitlines()[-1])


def _extra_anonymous(runs: dict[str, dict[str, Any]]) -> float:
    return runs["large"]["anonymous_mib"] - runs["small"]["anonymous_mib"]


def _speed(run: dict[str, Any]) -> float:
    return run["bytes"] / 1e6 / run["reading_seconds"]


def _tables(results: dict[str, Any]) -> str:
    header = ["file", "MB", "rows", "resident, MiB", "of it anonymous", "tokenised in, s", "steps", "a step, s"]
    body = [
        [
            name,
            f"{run['bytes'] / 1e6:,.0f}",
            f"{run['rows']:,}",
            f"{run['resident_mib']:,.0f}",
            f"{run['anonymous_mib']:,.0f}",
            f"{run['reading_seconds']:,.0f}",
            f"{run['steps']}",
            f"{run['step_seconds']:.3f}",
        ]
        for name, run in results["runs"].items()
    ]
    figures = markdown(
        ["figure", "value"], [[f"`{name}`", f"{value:.4g}"] for name, value in results["figures"].items()]
    )
    return f"\n{origin(results)}\n\n{markdown(header, body)}\n\n{figures}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the large file; below 2 nothing is written")
    parser.add_argument("--scratch", type=Path, help="folder with five times as much room (default: the system's)")
    arguments = parser.parse_args()
    main(arguments.gigabytes, arguments.scratch)
