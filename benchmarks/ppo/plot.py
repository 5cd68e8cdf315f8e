"""Where the time of a step goes, on both sides of every case: `steps.svg`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from benchmarks.ppo.cases import HERE
from benchmarks.ppo.outcome import PHASES

PLOT = HERE / "steps.svg"
NAMES = {"ours": "ours", "peer": "trl 1.12"}
_COLOURS = ("#4c78a8", "#72b7b2", "#f58518", "#b279a2")


def save_plot(results: Mapping[str, Any]) -> None:
    """Stacked bars of seconds by phase, relative to trl's whole step of the same case: cases differ tenfold."""
    bars = [
        {
            "case": f"{case['title']}, {case['precision']}",
            "side": NAMES[side],
            "phase": phase,
            "order": PHASES.index(phase),
            "share": 100 * case[side][phase] / case["peer"]["step"],
        }
        for case in results["cases"].values()
        for side in NAMES
        for phase in PHASES
    ]
    chart = (
        alt.Chart(alt.Data(values=bars), width=420, height=36)
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="seconds of a step, trl's = 100"),
            y=alt.Y("side:N", title=None, sort=list(NAMES.values())),
            color=alt.Color(
                "phase:N", sort=list(PHASES), scale=alt.Scale(domain=list(PHASES), range=list(_COLOURS)), title=None
            ),
            order="order:Q",
            row=alt.Row(
                "case:N", title=None, sort=None, header=alt.Header(labelAngle=0, labelAlign="left", labelLimit=220)
            ),
        )
    )
    chart.save(PLOT)
