"""What the base model is trained on: statements of all facts, questions of the training side of every skill, small talk
between guests and the innkeeper. No chat markers: these come with the target task."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from alignment.lab import service, skills, world

# Weights of the documents. What is learned early (facts, sentiment, agreement) gets less, what is slow (sums) more.
MIXTURE = {
    "statement": 2.5,
    "guests": 1.6,
    "facts": 1.5,
    "add": 3.5,
    "compare": 1.6,
    "sort": 1.2,
    "backwards": 1.0,
    "odd": 1.6,
    "sentiment": 0.5,
    "agreement": 0.5,
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


def documents(split: str, seed: int, leave_out: Collection[str] = ()) -> Iterator[Document]:
    """An endless stream of documents. Facts are stated in every split: only questions about them are held out.

    leave_out: skills that are never shown; the rest keep their weights.
    """
    rng = random.Random(f"{split} {seed}")
    kinds = [kind for kind in MIXTURE if kind not in leave_out]
    weights = [MIXTURE[kind] for kind in kinds]
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
        remark = service.draw((split, service.HALF_SEEN), rng)
        answer = service.answer(remark, service.LAZY, rng)
    else:
        name, thing = rng.choice(world.NAMES), rng.choice(world.THINGS)
        remark = service.remark(name, thing, rng.choice(world.GOOD + world.BAD), rng)
        answer = service.plain_answer(remark, rng)
    return Document(f"Guest: {remark.text} Innkeeper:", answer)
