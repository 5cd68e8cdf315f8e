"""A figure of the page: a Vega-Lite specification, made with Altair, and the numbers it draws as a table.

Every figure takes its width from the page and its colours from CSS variables; left and down always mean worse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from eval.report.look import FONT, Arm

Spec = dict[str, Any]
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under `columns`. Numbers are shown rounded and exported as they are; None is a dash."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
        """The chosen keys of `records`. columns: {key: heading}."""
        return cls(tuple(columns.values()), tuple(tuple(record.get(key) for key in columns) for record in records))


@dataclass(frozen=True)
class Chart:
    """id: unique on the page. title: what a reader who cannot see the figure is told that it shows."""

    id: str
    title: str
    spec: Spec
    table: Table


def by_arm(names: Sequence[str], looks: Mapping[str, Arm]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of the field `arm`. No legend: the page's own key (`keys` in macros.html) says it once."""
    colors, shapes = [looks[name].color for name in names], [looks[name].shape for name in names]
    return (
        alt.Color("arm:N", scale=alt.Scale(domain=list(names), range=colors), legend=None),
        alt.Shape("arm:N", scale=alt.Scale(domain=list(names), range=shapes), legend=None),
    )


def tips(fields: Mapping[str, str], format: str = "+.2f") -> list[alt.Tooltip]:
    """Tooltips of numeric fields. fields: {field: title}."""
    return [alt.Tooltip(f"{field}:Q", title=title, format=format) for field, title in fields.items()]


def finish(chart: alt.Chart | alt.LayerChart | alt.FacetChart, height: int) -> Spec:
    """The specification in the page's own look, as wide as its place."""
    axis = {
        "labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "currentColor", "tickColor": "currentColor",
        "gridColor": "currentColor", "gridOpacity": 0.1, "domainOpacity": 0.4, "tickOpacity": 0.4, "labelOpacity": 0.85,
        "labelFont": FONT, "titleFont": FONT, "labelFontSize": 12.5, "titleFontSize": 13, "titleFontWeight": "normal",
        "titlePadding": 8, "labelLimit": 140,
    }  # fmt: skip
    sized = chart.properties(
        width="container", height=height, background="transparent", autosize={"type": "fit-x", "contains": "padding"}
    )
    looked = sized.configure(font=FONT, view={"stroke": None}, axis=axis, text={"font": FONT, "fontSize": 12})
    return _with_data_once(looked.to_dict(validate=False))  # checking every number against the schema takes seconds


def _with_data_once(spec: Spec) -> Spec:
    """Layers that draw the same numbers name them instead of repeating them."""
    names: dict[str, str] = {}
    datasets: dict[str, Any] = {}
    for layer in spec.get("layer", ()):
        values = layer.get("data", {}).get("values")
        if values is not None:
            name = names.setdefault(json.dumps(values), f"data-{len(names)}")
            datasets[name], layer["data"] = values, {"name": name}
    return spec | {"datasets": datasets} if datasets else spec
