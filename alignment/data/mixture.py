"""Several data sets as one: what a recipe says about it, and how many rows each of them gives. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import not_
from typing import Annotated, Literal

from pydantic import Field, model_validator

from alignment.core.config import DataRef, require_one_of
from alignment.core.errors import DataError

PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Part(DataRef):
    """One of the data sets of a mixture. `rows` takes its first so many before anything is drawn."""

    weight: float | None = Field(
        None, gt=0, exclude_if=lambda value: value is None, description="its share of the rows, relative to the others'"
    )


class MixedRef(DataRef):
    """Rows of one source, or of several mixed in given shares: `{mixture: {sums: {path: ..., weight: 2}, words: {...}}}`.

    A part's share goes by its `weight`; without weights by its number of rows. A part that has to give more than it holds is gone
    through again, shuffled anew; one that gives less gives another draw at every seed.

    rows: of the whole mixture. until: instead of `rows`; all_exhausted = until every row of every part was met (the default),
    first_exhausted = until a part has no new row left.
    temperature: shares are taken to the power of 1 / temperature (Raffel et al. 2020, 3.5.2): above 1 small parts get more, far
    above 1 all get the same.
    """

    mixture: dict[PartName, Part] | None = Field(None, min_length=2, exclude_if=not_)
    until: Literal["all_exhausted", "first_exhausted"] | None = Field(None, exclude_if=not_)
    temperature: float = Field(1.0, ge=0.1, exclude_if=lambda value: value == 1)

    @model_validator(mode="after")
    def _one_source(self) -> MixedRef:
        require_one_of(self, ("stage", "path", "hub", "lab", "mixture"))
        if self.mixture is None:
            if self.model_fields_set & {"until", "temperature"}:
                raise ValueError("until and temperature belong to a mixture")
            return self
        reading = {"split", "max_characters", "format", "columns", "values", "template", "on_error"}
        idle = sorted(self.model_fields_set & reading)
        if idle:
            raise ValueError(f"{idle[0]}: say it of the parts that it is meant for")
        if self.rows is not None and self.until is not None:
            raise ValueError("give rows or until, not both")
        weighted = [name for name, part in self.mixture.items() if part.weight is not None]
        if weighted and len(weighted) < len(self.mixture):
            other = next(name for name in self.mixture if name not in weighted)
            raise ValueError(f"{weighted[0]} has a weight and {other} has none: give all of them one, or none")
        return self


def counts(ref: MixedRef, sizes: Mapping[str, int], where: str) -> dict[str, int]:
    """How many rows each part gives: its share, rounded so that they sum to the whole (largest remainders first).

    sizes: how many rows each part holds. Raises DataError where a part gives none, or the whole is beyond all measure.
    """
    shares = _shares(ref, sizes)
    total = ref.rows or _until_exhausted(ref, sizes, shares)
    if total > _MOST:
        what = f"a mixture of more than {_MOST:,} rows"
        raise DataError(f"{where}.mixture", what, "fewer", "give rows, or shares that differ less")
    exact = {name: total * share for name, share in shares.items()}
    found = {name: math.floor(value + _DUST) for name, value in exact.items()}
    by_remainder = sorted(found, key=lambda name: found[name] - exact[name])
    for name in by_remainder[: total - sum(found.values())]:
        found[name] += 1
    if missing := [name for name, count in found.items() if not count]:
        what = f"{missing[0]} gives none of {total:,} rows"
        raise DataError(f"{where}.mixture", what, "a row of each part at least", "raise its weight, or the temperature")
    return found


def _shares(ref: MixedRef, sizes: Mapping[str, int]) -> dict[str, float]:
    """By name, in its order: that of the recipe is no part of a cell's digest."""
    parts = ref.mixture or {}
    logs = {name: math.log(parts[name].weight or sizes[name]) / ref.temperature for name in sorted(parts)}
    scaled = {name: math.exp(log - max(logs.values())) for name, log in logs.items()}
    total = math.fsum(scaled.values())
    return {name: value / total for name, value in scaled.items()}


def _until_exhausted(ref: MixedRef, sizes: Mapping[str, int], shares: Mapping[str, float]) -> int:
    whole = [sizes[name] / max(share, 1e-300) for name, share in shares.items()]  # at which a part is gone through once
    if ref.until == "first_exhausted":
        return math.floor(min(whole) + _DUST)
    return math.ceil(max(whole) - _DUST)


_DUST = 1e-6  # of rounding: 100 / (2 / 3) is not quite 150
_MOST = 100_000_000
