"""Finished `win_rate` cells with outcomes of one's choice."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eval.win_rate_files import ABOUT, PAIRS, SCHEMA
from eval.win_summary import JudgedCell


def cell(folder: Path, wins, seed=0, lengths=None, verdicts=None, prompts=None, judge="rule longer") -> JudgedCell:
    """A finished cell with these outcomes. lengths: (reference, new) characters by prompt, or the answers; verdicts: of both orders."""
    rows = []
    for number, win in enumerate(wins):
        reference, new = lengths[number] if lengths else (10, 10)
        row = dict.fromkeys(SCHEMA.names) | {
            "prompt_hash": prompts[number] if prompts else f"p{number}",
            "prompt": f"prompt {number}",
            "reference_answer": reference if isinstance(reference, str) else "r" * reference,
            "new_answer": new if isinstance(new, str) else "n" * new,
            "win": win,
        }
        if verdicts:
            first, second = verdicts[number]
            row |= {"verdict_reference_first": first, "verdict_new_first": second}
            row |= {"reply_reference_first": "A", "reply_new_first": "A"}
        rows.append(row)
    place = folder / f"cell-{seed}-{len(list(folder.iterdir()))}"
    place.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), place / PAIRS)
    (place / ABOUT).write_text(json.dumps({"judge": judge}))
    return JudgedCell("sft", "ppo", seed, place)
