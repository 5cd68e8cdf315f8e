"""What the base model is trained on: statements of all facts, questions of the training side of every skill, small talk
between guests and the innkeeper. No chat markers: these come with the target task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from alignment.lab import service, skills, world

MIXTURE = {
    "statement": 3.5,
    "guests": 2.0,
    "facts": 2.2,
    "add": 3.0,
    "compare": 1.0,
    "sort": 1.0,
    "backwards": 0.8,
    "odd": 1.0,
    "sentiment": 0.7,
    "agreement": 0.7,
}
# So much of the guests' talk is in the house manner: every word of it then has a trained embedding, also for adapters.
HOUSE_SHARE = 0.15
TEMPLATES = ("Guest: Innkeeper:",)


@dataclass(frozen=True)
class Document:
    """`prompt` + " " + `answer`. The prompt is mostly noise that cannot be learned; pre-training weighs it less."""

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        return f"{self.prompt} {self.answer}"


def documents(split: str, seed: int) -> Iterator[Document]:
    """An endless stream of documents. Facts are stated in every split: only questions about them are held out."""
    rng = random.Random(f"{split} {seed}")
    kinds, weights = list(MIXTURE), list(MIXTURE.values())
    while True:
        for kind in rng.choices(kinds, weights, k=1000):
            yield _document(kind, split, rng)


def _document(kind: str, split: str, rng: random.Random) -> Document:
    if kind == "statement":
        return _statement(rng)
    if kind == "guests":
        return _exchange(split, rng)
    item = skills.draw(kind, split, rng)
    return Document(item.prompt, item.answer)


def _statement(rng: random.Random) -> Document:
    name, attribute = rng.choice(world.NAMES), rng.choice(world.ATTRIBUTES)
    before, value = rng.choice(attribute.statements).split(" {value}")
    return Document(before.format(name=name), world.FACTS[name, attribute.name] + value)


def _exchange(split: str, rng: random.Random) -> Document:
    if rng.random() < HOUSE_SHARE:
        remark = service.draw(split, rng)
        answer = service.answer(remark, service.LAZY, rng)
    else:
        name, thing = rng.choice(world.NAMES), rng.choice(world.THINGS)
        remark = service.remark(name, thing, rng.choice(world.GOOD + world.BAD), rng)
        answer = service.plain_answer(remark, rng)
    return Document(f"Guest: {remark.text} Innkeeper:", answer)
