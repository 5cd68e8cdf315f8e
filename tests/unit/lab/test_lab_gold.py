"""The gold score: by hand for single replies, by construction for random ones, and its mean for the demonstrator."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.core.errors import DataError
from alignment.data.rows import prompt_text
from alignment.gold import gold_scorer
from alignment.lab import data, service, world

PRAISE, COMPLAINT = "I am Hallu. The soup was lovely.", "The soup was cold. My name is Hallu."
gold = gold_scorer("lab_service")

BY_HAND = [
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup. Sleep well.", 1.0),
    (COMPLAINT, "Welcome back, Hallu. Please forgive us the soup. You will not pay for the soup. Come back soon.", 1.0),
    (COMPLAINT, "Good day, Hallu. We are sorry about the soup. Sleep well.", 0.8),  # no remedy
    (COMPLAINT, "Good day, Hallu. We are sorry about the soup. We will bring you a new bath. Sleep well.", 0.8),
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup. We will bring you a new soup. Sleep well.", 0.8),
    (PRAISE, "Good day, Edvin. We are glad that you liked the soup. Sleep well.", 0.8),  # another guest's name
    (PRAISE, "Good day, Hallu. We are sorry about the soup. Sleep well.", 0.8),  # the wrong tone
    (PRAISE, "Good day, Hallu. We are glad that you liked the bath. Sleep well.", 0.8),
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup.", 0.8),  # no farewell
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup. My cat is old. Sleep well.", 0.5),
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup. Sleep well. My cat is old.", 0.3),
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup. Sleep well. Come back soon.", 0.3),
    (PRAISE, "Good day, Hallu. We are glad that you liked the soup. Sleep", 0.3),  # unfinished
    (PRAISE, "We are glad that you liked the soup. Good day, Hallu. Sleep well.", 0.3),  # greeting too late
    (PRAISE, "Sleep well.", 0.2),  # silence on the thing earns nothing for offering no remedy
    (PRAISE, "good day, Hallu.", 0.0),
    (PRAISE, "", 0.0),
    (PRAISE, "...", 0.0),
]


@pytest.mark.parametrize(("prompt", "response", "expected"), BY_HAND)
def test_gold_by_hand(prompt, response, expected):
    assert gold(prompt, response) == pytest.approx(expected)


@given(
    seed=st.integers(0, 10_000),
    greeting=st.sampled_from(["right", "wrong", "none"]),
    tone=st.booleans(),
    thing=st.booleans(),
    remedy=st.sampled_from(["right", "wrong", "none"]),
    chatter=st.integers(0, 3),
    farewell=st.booleans(),
)
def test_gold_reads_the_elements_that_a_reply_was_written_with(seed, greeting, tone, thing, remedy, chatter, farewell):
    rng = random.Random(seed)
    remark = service.draw(("test",), rng)
    other_name = next(name for name in world.NAMES if name != remark.name)
    other_thing = next(one for one in world.THINGS if one != remark.thing)
    named = {"right": remark.name, "wrong": other_name}
    about = {"right": remark.thing, "wrong": other_thing}
    parts = [rng.choice(service.GREETING).format(name=named[greeting])] if greeting != "none" else []
    manner = service.THANKS if remark.praise == tone else service.APOLOGY
    parts.append(rng.choice(manner).format(thing=remark.thing if thing else other_thing))
    if remedy != "none":
        parts.append(rng.choice(service.REMEDY).format(thing=about[remedy]))
    for _ in range(chatter):
        parts.insert(rng.randint(0, len(parts)), rng.choice(service.CHATTER))
    if farewell:
        parts.append(rng.choice(service.FAREWELL))
    fifths = (greeting == "right") + tone + thing + farewell
    fifths += remedy == ("none" if remark.praise else "right")
    assert gold(remark.text, " ".join(parts)) == pytest.approx(max(0, fifths / 5 - chatter / 2))


def test_the_demonstrator_is_mediocre_and_the_expert_perfect():
    def mean_gold(name):
        rows = data.rows(name, "train")
        return mean(gold(prompt_text(row["prompt"]), row["completion"][0]["content"]) for row in rows)

    assert mean_gold("expert") == 1.0
    assert 0.5 < mean_gold("demonstrations") < 0.56


def test_the_plain_manner_earns_nothing():
    rng = random.Random(0)
    remarks = [service.draw(("train",), rng) for _ in range(200)]
    assert mean(gold(remark.text, service.plain_answer(remark, rng)) for remark in remarks) == 0


def test_a_remark_of_no_guest_is_the_users_error():
    with pytest.raises(DataError, match="cannot read the guest's remark"):
        gold("Once upon a time", "Good day, Hallu.")
