"""What a section of the page is, and what it is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval import words
from eval.comparison import ArmComparison
from eval.report.charts import Chart
from eval.report.look import Arm, arms_of
from eval.results import ReportInput, plain
from eval.terminal import in_reading_order


@dataclass(frozen=True)
class Section:
    """One part of the page. id: its anchor. fold: closed until it is asked for. charts: the figures that `html` has places for."""

    id: str
    title: str
    html: Markup
    charts: tuple[Chart, ...] = ()
    fold: bool = False


@dataclass(frozen=True)
class Page:
    """What every section reads. arms: all comparisons. data: the document `results.json`. derived: see `eval/derived.py`."""

    report: ReportInput
    arms: Sequence[ArmComparison]
    data: Mapping[str, Any]
    derived: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @cached_property
    def looks(self) -> dict[str, Arm]:
        """Colour and shape of every arm, the same in all figures."""
        return arms_of([(model.stage, model.parent) for model in self.report.models])

    @cached_property
    def ordered(self) -> list[ArmComparison]:
        """The declared contrasts, then every arm against its base."""
        return in_reading_order(self.arms)

    @cached_property
    def everything(self) -> list[ArmComparison]:
        """All comparisons, those of `ordered` first."""
        return [*self.ordered, *(arm for arm in self.arms if arm not in self.ordered)]

    @cached_property
    def from_base(self) -> list[ArmComparison]:
        return [arm for arm in self.arms if "base" in arm.kinds]

    def section(
        self, id: str, title: str, *, charts: Sequence[Chart] = (), fold: bool = False, **context: Any
    ) -> Section:
        """`sections/<id>.html` filled in; the partial sees `page`, `charts`, `words` and the rest of the context."""
        partial = environment().get_template(f"sections/{id}.html")
        html = partial.render(page=self, charts=charts, words=words, **context)
        return Section(id, title, Markup(html), tuple(charts), fold)


@cache
def environment() -> Environment:
    """Jinja with everything escaped that is not Markup."""
    loader = PackageLoader("eval", "report")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals |= {"exported": exported, "shown": words.number}
    return made


def exported(*cells: Any) -> Markup:
    """Attribute of a table's cell: what an exported CSV holds in its place, full precision, one or more fields. Without any
    the cell is left out of exports; without the attribute its text is exported."""
    return Markup('data-cells="{}"').format(json.dumps(plain(cells)))


def as_json(document: Any) -> Markup:
    """JSON that cannot close the script element it stands in."""
    return Markup(json.dumps(plain(document), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))
