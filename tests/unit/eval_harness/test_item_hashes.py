"""Digests tell whether two measurements asked the same: equal for equal data, different for any other."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluate_stage import measure

from alignment.core.config import DataRef
from alignment.data.rows import write_rows
from eval.config import TextTask

TEXTS = st.lists(st.text("ab é", min_size=1, max_size=3), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def asked(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    known: dict[str, tuple] = {}

    def hashes(texts: list[str]) -> tuple:
        key = json.dumps(texts)
        if key not in known:
            write_rows([{"text": text} for text in texts], folder / "texts.jsonl")
            task = TextTask(metric="bits_per_byte", data=DataRef(path=str(folder / "texts.jsonl")))
            _, evaluation, items = measure(tiny, folder / "out", {"texts": task}, retained=["texts"])
            pairs = [(item["doc_hash"], item["prompt_hash"]) for item in items]
            known[key] = evaluation["tasks"]["texts"]["data_digest"], pairs
        return known[key]

    return hashes


@settings(max_examples=25, deadline=None)
@given(TEXTS, TEXTS)
def test_equal_digests_mean_equal_data(asked, first, second):
    (one, pairs), (other, other_pairs) = asked(first), asked(second)
    assert (one == other) == (first == second)
    assert [a == b for a, b in zip(pairs, other_pairs, strict=False)] == [
        a == b for a, b in zip(first, second, strict=False)
    ]


def test_order_is_part_of_the_digest(asked):
    assert asked(["a", "b"])[0] != asked(["b", "a"])[0]
