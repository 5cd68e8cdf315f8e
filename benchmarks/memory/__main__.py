"""`python -m benchmarks.memory`: measures every case, writes results.json and the table of README.md. Exit code 1 where an estimate
is off by more than it may be."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.memory.cases import CASES, HERE, MODELS
from benchmarks.publish import between, markdown, origin, provenance, write_json

_ALLOWED = 0.25
_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")


def main() -> int:
    rows = [_measured(*case) for case in CASES]
    results = provenance(_PACKAGES) | {"cases": rows}
    write_json(HERE / "results.json", results)
    readme = HERE / "README.md"
    readme.write_text(between(readme.read_text(), "results", f"{origin(results)}\n\n{_table(rows)}"))
    return int(any(abs(row["estimated"] / row["measured"] - 1) > _ALLOWED for row in rows))


def _measured(model: str, way: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.memory.measure", model, way, folder]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    row = json.loads(output.splitlines()[-1])
    print(f"{model}, {way}: {row['measured']} MiB, estimated {row['estimated']}", flush=True)
    return row


def _table(rows: list[dict[str, Any]]) -> str:
    header = [
        "model",
        "trained",
        "weights",
        "gradients",
        "optimiser",
        "activations",
        "estimated",
        "measured",
        "difference",
    ]
    return markdown(
        header,
        [
            [
                MODELS[row["model"]].title,
                f"{row['way']}: {row['trainable'] / row['parameters']:.2%}",
                *(f"{row['parts'][name]:,.1f}" for name in header[2:6]),
                f"{row['estimated']:,.0f}",
                f"{row['measured']:,.0f}",
                f"{row['estimated'] / row['measured'] - 1:+.0%}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
