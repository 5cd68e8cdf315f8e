"""The eight old skills: what the base model can do before it is trained further, and may then forget.

Every item has a key; a hash of (skill, key) alone decides its split, so no seed can move an item across splits.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from alignment.lab import world

TEST_ITEMS = 300
_PATIENCE = 3000  # so many draws without a new item: the split is exhausted


@dataclass(frozen=True)
class Item:
    """`prompt` + " " + `answer` is the whole text. choices: empty where the answer is generated and must match exactly.
    cluster: items that share it ask about the same held-out thing."""

    skill: str
    key: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    cluster: str = ""


TEMPLATES = (
    "Question: Answer: Review: Feeling: good bad yes no",
    "Which one does not fit: Is more less than What is + Sort these words: Say backwards:",
    "The was not and but is are .",
)


def split_of(skill: str, key: str) -> str:
    """train, validation or test; of facts three in ten are held out (the corpus only states them), of the rest a tenth."""
    bucket = zlib.crc32(f"{skill}|{key}".encode()) % 100
    test = 30 if skill == "facts" else 10
    return "test" if bucket < test else "validation" if bucket < test + 5 else "train"


def facts(rng: random.Random) -> Item:
    name, attribute = rng.choice(world.NAMES), rng.choice(world.ATTRIBUTES)
    value, key = world.FACTS[name, attribute.name], f"{name} {attribute.name}"
    others = random.Random(key).sample([other for other in attribute.values if other != value], 3)
    choices = _shuffled([value, *others], key)
    question = rng.choice(attribute.questions).format(name=name)
    return Item("facts", key, f"Question: {question} Answer:", f"{value}.", tuple(f"{c}." for c in choices), key)


_CATEGORIES = (world.JOBS, world.PETS, world.COLOURS, world.FRUITS, world.PLACES, world.TOOLS)


def odd(rng: random.Random) -> Item:
    many, one = rng.sample(_CATEGORIES, 2)
    stranger = rng.choice(one)
    words = [*rng.sample(many, 3), stranger]
    rng.shuffle(words)
    prompt = f"Question: Which one does not fit: {' '.join(words)}? Answer:"
    return Item("odd", " ".join(sorted(words)), prompt, f"{stranger}.", tuple(f"{word}." for word in words))


def compare(rng: random.Random) -> Item:
    a, b = rng.sample(range(100), 2)
    more = rng.random() < 0.5
    answer = "yes." if (a > b) == more else "no."
    prompt = f"Question: Is {a} {'more' if more else 'less'} than {b}? Answer:"
    key = f"{min(a, b)} {max(a, b)}"
    return Item("compare", key, prompt, answer, ("yes.", "no."), key)


def add(rng: random.Random) -> Item:
    a, b = rng.randrange(100), rng.randrange(100)
    if a + b >= 100:
        a, b = 99 - a, 99 - b
    key = f"{min(a, b)} {max(a, b)}"
    return Item("add", key, f"Question: What is {a} + {b}? Answer:", f"{a + b}.", cluster=key)


def sentiment(rng: random.Random) -> Item:
    """Two judgements joined by `and` agree; after `but` the second one counts."""
    good, link = rng.random() < 0.5, rng.choice(("and", "but"))
    first, second = rng.sample(world.THINGS, 2)
    left, right = _judgement(rng, good == (link == "and")), _judgement(rng, good)
    prompt = f"Review: The {first} was {left} {link} the {second} was {right}. Feeling:"
    return Item("sentiment", prompt, prompt, "good." if good else "bad.", ("good.", "bad."))


def _judgement(rng: random.Random, good: bool) -> str:
    denied = rng.random() < 0.4
    adjective = rng.choice(world.GOOD if good != denied else world.BAD)
    return f"not {adjective}" if denied else adjective


def agreement(rng: random.Random) -> Item:
    numbers = (world.SINGULAR, world.PLURAL)
    subject, attractor = rng.sample(range(len(world.SINGULAR)), 2)
    plural, distracted = rng.random() < 0.5, rng.random() < 0.5
    state = rng.choice(world.STATES)
    prompt = f"The {numbers[plural][subject]} {rng.choice(world.PREPOSITIONS)} the {numbers[distracted][attractor]}"
    choices = (f"is {state}.", f"are {state}.")
    return Item("agreement", prompt, prompt, choices[plural], choices, prompt)


def sort(rng: random.Random) -> Item:
    words = rng.sample(world.FRUITS, 3)
    key = " ".join(sorted(words))
    return Item("sort", key, f"Question: Sort these words: {' '.join(words)}. Answer:", f"{key}.", cluster=key)


def backwards(rng: random.Random) -> Item:
    words = rng.sample(world.FRUITS, 3)
    prompt, answer = f"Question: Say backwards: {' '.join(words)}. Answer:", f"{' '.join(reversed(words))}."
    return Item("backwards", " ".join(words), prompt, answer)


SKILLS: dict[str, Callable[[random.Random], Item]] = {
    skill.__name__: skill for skill in (facts, odd, compare, add, sentiment, agreement, sort, backwards)
}


def draw(skill: str, split: str, rng: random.Random) -> Item:
    """A random item of that split."""
    while True:
        item = SKILLS[skill](rng)
        if split_of(skill, item.key) == split:
            return item


@cache
def items(skill: str, split: str, count: int = TEST_ITEMS) -> tuple[Item, ...]:
    """Up to `count` distinct items of a split, always the same ones; fewer where the split holds no more."""
    rng, found, idle = random.Random(f"{skill} {split}"), {}, 0
    while len(found) < count and idle < _PATIENCE:
        item = draw(skill, split, rng)
        text = f"{item.prompt} {item.answer}"
        idle = idle + 1 if text in found else 0
        found.setdefault(text, item)
    return tuple(found.values())


def _shuffled(values: list[str], seed: str) -> list[str]:
    random.Random(seed).shuffle(values)
    return values
