"""How an arm looks everywhere on the page: one colour (safe for colour-blind readers) and one shape.

Colours are CSS variables, so that light and dark need one page only; the palette is Okabe and Ito's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from eval.comparison import TaskComparison

FONT = "Charter, 'Bitstream Charter', 'Charis SIL', 'Sitka Text', Cambria, 'Noto Serif', serif"
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
PALETTE = 6  # colours in style.css, --arm-1 to --arm-6; --arm-0 is the grey of a base


@dataclass(frozen=True)
class Arm:
    name: str
    color: str
    shape: str

    def mark(self, x: float = 6, y: float = 6, r: float = 4.2) -> Markup:
        """The arm's shape as an SVG element, centred on (x, y)."""
        s = r * 0.9
        match self.shape:
            case "circle":
                body = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}"/>'
            case "square":
                body = f'<rect x="{x - s:.1f}" y="{y - s:.1f}" width="{2 * s:.1f}" height="{2 * s:.1f}"/>'
            case _:
                body = f'<path d="{_outline(self.shape, x, y, r)}"/>'
        return Markup(f'<g fill="{self.color}">{body}</g>')

    def label(self) -> Markup:
        """Shape and name, for running text and tables."""
        shape = Markup(f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{self.mark()}</svg>')
        return Markup(f'<span class="arm">{shape}{escape(self.name)}</span>')


def arms_of(stages: Sequence[tuple[str, str | None]]) -> dict[str, Arm]:
    """stages: (name, parent) in the recipe's order. Those without a parent are grey."""
    arms, colored = {}, 0
    for name, parent in stages:
        if name in arms:
            continue
        if parent is None:
            arms[name] = Arm(name, "var(--arm-0)", "circle")
        else:
            shape = SHAPES[
                (colored + 1 + colored // PALETTE) % len(SHAPES)
            ]  # a colour that comes again has another shape
            arms[name] = Arm(name, f"var(--arm-{colored % PALETTE + 1})", shape)
            colored += 1
    return arms


def interval_bar(row: TaskComparison, arm: Arm, low: float, high: float) -> Markup:
    """A small bar: 95 % interval thin, 90 % thick, the margin shaded. low, high: the column's scale, in raw
    differences.

    The axis is turned where lower is better, so that left is always worse.
    """
    width, height = 150.0, 18.0
    sign = 1.0 if row.higher_is_better else -1.0

    def at(number: float) -> float:
        return 3 + (width - 6) * min(1.0, max(0.0, (sign * number - low) / (high - low)))

    (a, b), (c, d) = row.estimate.ci95, row.estimate.ci90
    margin = sorted((at(-row.margin), at(row.margin)))
    parts = [
        f'<rect class="margin" x="{margin[0]:.1f}" y="0" width="{margin[1] - margin[0]:.1f}" height="{height}"/>',
        f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="0" y2="{height}"/>',
        f'<line stroke="{arm.color}" stroke-width="1.4" x1="{at(a):.1f}" x2="{at(b):.1f}" y1="9" y2="9"/>',
        f'<line stroke="{arm.color}" stroke-width="3.6" x1="{at(c):.1f}" x2="{at(d):.1f}" y1="9" y2="9"/>',
        arm.mark(at(row.delta), 9, 5),
    ]
    return Markup(f'<svg class="bar" viewBox="0 0 {width:.0f} {height:.0f}" aria-hidden="true">{"".join(parts)}</svg>')


def bar_scale(rows: Sequence[TaskComparison]) -> tuple[float, float]:
    """One scale for all bars of a column, zero and the margin included."""
    edges = [edge for row in rows for edge in (*row.gain_ci, -row.margin, row.margin)]
    low, high = min(edges), max(edges)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _outline(shape: str, x: float, y: float, r: float) -> str:
    points = {
        "triangle-up": [(0, -1.05), (1, 0.8), (-1, 0.8)],
        "triangle-down": [(0, 1.05), (1, -0.8), (-1, -0.8)],
        "diamond": [(0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)],
        "cross": [(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35), (0.35, 1), (-0.35, 1),
                  (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)],
    }[shape]  # fmt: skip
    return "M" + "L".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in points) + "Z"
