"""How many rows each part of a mixture gives, worked out by hand; and what cannot be meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alignment.core.errors import DataError
from alignment.data.mixture import MixedRef, counts


def mixture(parts, **more):
    """parts: weights by name, None for a part without one."""
    weights = {name: {} if weight is None else {"weight": weight} for name, weight in parts.items()}
    return MixedRef.model_validate({"mixture": {name: {"path": name} | w for name, w in weights.items()}} | more)


SIZES = {"big": 800, "small": 100, "tiny": 25}
NONE = dict.fromkeys(SIZES)


@pytest.mark.parametrize(
    ("ref", "given"),
    [
        (mixture(NONE), {"big": 800, "small": 100, "tiny": 25}),  # by their sizes, until all is met: everything once
        (mixture(NONE, rows=37), {"big": 32, "small": 4, "tiny": 1}),  # 925 = 25 * 37
        (mixture({"big": 2, "small": 1, "tiny": 1}, rows=400), {"big": 200, "small": 100, "tiny": 100}),
        (mixture({"big": 2, "small": 1, "tiny": 1}), {"big": 800, "small": 400, "tiny": 400}),
        (mixture({"big": 2, "small": 1, "tiny": 1}, until="first_exhausted"), {"big": 50, "small": 25, "tiny": 25}),
        # square roots of 16, 4 and 1
        (mixture({"big": 16, "small": 4, "tiny": 1}, temperature=2, rows=70), {"big": 40, "small": 20, "tiny": 10}),
        # thirds of 100: the last row goes to the first of equal remainders
        (mixture({"big": 1, "small": 1, "tiny": 1}, rows=100), {"big": 34, "small": 33, "tiny": 33}),
        (mixture(NONE, temperature=1000, rows=300), {"big": 100, "small": 100, "tiny": 100}),
    ],
)
def test_rows_of_each_part_by_hand(ref, given):
    assert counts(ref, SIZES, "data") == given


def test_the_order_of_the_parts_in_the_recipe_makes_no_difference():
    one, other = mixture({"a": 1, "b": 1}, rows=3), mixture({"b": 1, "a": 1}, rows=3)
    assert list(counts(one, {"a": 9, "b": 9}, "data").items()) == list(counts(other, {"b": 9, "a": 9}, "data").items())


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3)), min_size=2, max_size=6),
    st.floats(0.5, 10),
    st.sampled_from(["all_exhausted", "first_exhausted"]),
)
def test_exhausted_means_what_it_says(parts, temperature, until):
    sizes = {f"p{n}": size for n, (size, _) in enumerate(parts)}
    ref = mixture({f"p{n}": weight for n, (_, weight) in enumerate(parts)}, temperature=temperature, until=until)
    try:
        found = counts(ref, sizes, "data")
    except DataError:
        return
    whole = [found[name] >= sizes[name] for name in sizes]
    if until == "all_exhausted":
        assert all(whole)
    else:
        assert all(found[name] <= sizes[name] for name in sizes)
        share = sum(found.values())  # one step further, and a part would have to give a row twice
        assert any(found[name] + 1 >= sizes[name] for name in sizes), (found, sizes, share)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (mixture({"big": 1, "small": 1e-9, "tiny": 1}, rows=100), "small gives none of 100 rows"),
        (mixture({"big": 1e-300, "small": 1, "tiny": 1}), "more than 100,000,000 rows"),
        (mixture(NONE, rows=10**30), "more than 100,000,000 rows"),
    ],
)
def test_shares_that_come_to_nothing_or_to_too_much(ref, message):
    with pytest.raises(DataError, match=message):
        counts(ref, SIZES, "data")


TWO = {"a": {"path": "a"}, "b": {"path": "b"}}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"mixture": {"a": {"path": "a"}}}, "at least 2"),
        ({"mixture": TWO, "path": "c"}, "exactly one of stage, path, hub, lab, mixture"),
        ({"mixture": TWO | {"b": {"path": "b", "weight": 0}}}, "greater than 0"),
        ({"mixture": TWO | {"b": {"path": "b", "weight": -1}}}, "greater than 0"),
        ({"mixture": TWO | {"b": {"path": "b", "weight": float("inf")}}}, "finite"),
        ({"mixture": TWO | {"b": {"path": "b", "weight": 2}}}, "b has a weight and a has none"),
        ({"mixture": TWO | {"b/c": {"path": "b"}}}, "pattern"),
        ({"mixture": TWO | {"b": {"mixture": TWO}}}, "not permitted"),
        ({"mixture": TWO, "rows": 3, "until": "all_exhausted"}, "rows or until, not both"),
        ({"mixture": TWO, "split": "train"}, "split: say it of the parts"),
        ({"mixture": TWO, "temperature": 0}, "greater than or equal"),
        ({"path": "a", "temperature": 2}, "belong to a mixture"),
        ({"path": "a", "until": "all_exhausted"}, "belong to a mixture"),
    ],
)
def test_mixtures_that_cannot_be_meant(block, message):
    with pytest.raises(ValidationError, match=message):
        MixedRef.model_validate(block)
