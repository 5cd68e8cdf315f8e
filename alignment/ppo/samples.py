"""A few rollouts to read: a table in the run's log, and the same rows in `samples.jsonl` in the artifact.

Numbers show that something changes; only the answers show what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size

from alignment.generation.engine import Completion

SAMPLES = "samples.jsonl"
_WIDTH = 120
_TAIL = 1 / 3  # of a shortened text: how an answer ends says as much as how it begins


def sample_rows(
    step: int,
    completions: Sequence[Completion],
    texts: Sequence[tuple[str, str]],
    scores: Sequence[float],
    kls: Sequence[float],
    golds: Sequence[float] | None,
    count: int,
) -> list[dict[str, Any]]:
    """`count` rollouts of a step, evenly spaced from the highest score to the lowest, both included.

    texts: prompt and answer. kls: k1, in nats a sequence. golds: None without a gold scorer.
    """
    order = sorted(range(len(completions)), key=lambda index: (-scores[index], index))
    return [
        {
            "step": step,
            "prompt": texts[index][0],
            "answer": texts[index][1],
            "score": float(scores[index]),
            "kl": float(kls[index]),
            "length": len(completions[index].response_ids),
            "finished": completions[index].finished,
            "gold": None if golds is None else float(golds[index]),
        }
        for index in (order[place] for place in _evenly(len(order), count))
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as plain text, two lines each and at most 120 columns wide; long texts are shortened in the middle, and what
    a terminal would obey or not show is written as an escape."""
    if not rows:
        return ""
    gold = any(row["gold"] is not None for row in rows)
    indent = " " * len(_numbers(rows[0], gold))
    lines = ["  score      KL  length  end " + ("  gold " if gold else "") + " prompt -> answer"]
    for row in rows:
        lines.append(f"{_numbers(row, gold)} {_shown(row['prompt'], _WIDTH - len(indent) - 1)}")
        lines.append(f"{indent} -> {_shown(row['answer'], _WIDTH - len(indent) - 4)}")
    return "\n".join(lines)


def _numbers(row: Mapping[str, Any], gold: bool) -> str:
    end = "EOS" if row["finished"] else "cut"
    numbers = f"{row['score']:7.2f} {row['kl']:7.2f} {row['length']:7d}  {end} "
    return numbers + (f"{row['gold']:6.2f} " if gold else "")


def _shown(text: str, width: int) -> str:
    """One line of at most `width` columns. Wide characters take two."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    if cell_len(line) <= width:
        return line
    tail = int(width * _TAIL)
    head = set_cell_size(line, width - tail - 3).rstrip()
    return f"{head} … {_last_cells(line, tail)}"


def _last_cells(line: str, width: int) -> str:
    return chop_cells(line[::-1], width)[0][::-1].lstrip()


def _evenly(size: int, count: int) -> list[int]:
    """`count` of the places 0 .. size - 1, first and last among them; all if there are no more."""
    if count >= size:
        return list(range(size))
    return [0] if count == 1 else [round(number * (size - 1) / (count - 1)) for number in range(count)]
