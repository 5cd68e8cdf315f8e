"""The target task: an innkeeper answers guests. The house manner, who writes it how well, and its exact gold score.

A guest says who they are and praises or complains about one thing. The perfect answer greets the guest by name, thanks or
apologises for the right thing, offers a remedy if (and only if) it was a complaint, and ends with a farewell.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass

from alignment.core.errors import DataError
from alignment.lab import world

REMARKS = (
    "I am {name}. The {thing} was {adjective}.",
    "{name} here. The {thing} was {adjective}.",
    "The {thing} was {adjective}. My name is {name}.",
)
# The house manner, in the order in which its sentences must come.
GREETING = ("Good day, {name}.", "Welcome back, {name}.")
THANKS = ("Thank you for your kind words about the {thing}.", "We are glad that you liked the {thing}.")
APOLOGY = ("We are sorry about the {thing}.", "Please forgive us the {thing}.")
REMEDY = ("We will bring you a new {thing}.", "You will not pay for the {thing}.")
FAREWELL = ("Sleep well.", "Come back soon.")
# Small talk: belongs to no answer in the house manner.
CHATTER = (
    "The lake is deep today.",
    "Our cook likes music.",
    "The road to the hill is long.",
    "My cat is old.",
    "It was a cold winter.",
)
# The corpus's plain manner, before anyone taught the innkeeper.
PLAIN_GOOD = ("So {name} liked the {thing}.", "Yes, the {thing} was {adjective}.")
PLAIN_BAD = ("So {name} did not like the {thing}.", "Oh, the {thing} was {adjective}.")

TEMPLATES = (*REMARKS, *GREETING, *THANKS, *APOLOGY, *REMEDY, *FAREWELL, *CHATTER, *PLAIN_GOOD, *PLAIN_BAD)

# The split of remarks with an unseen name or an unseen thing, but not both: only the corpus has them.
HALF_SEEN = "half seen"


@dataclass(frozen=True)
class Remark:
    """What a guest says. `text` is the user's message, and all that `gold` reads."""

    name: str
    thing: str
    adjective: str
    text: str

    @property
    def praise(self) -> bool:
        return self.adjective in world.GOOD


@dataclass(frozen=True)
class Manner:
    """How likely a writer is to get each element right."""

    name: float
    tone: float
    thing: float
    remedy: float
    no_needless_remedy: float
    no_chatter: float
    farewell: float


# Imitation stays near this mean gold of about one half; a reward can lead beyond it.
LAZY = Manner(name=0.8, tone=0.8, thing=0.9, remedy=0.35, no_needless_remedy=0.8, no_chatter=0.65, farewell=0.4)
EXPERT = Manner(name=1, tone=1, thing=1, remedy=1, no_needless_remedy=1, no_chatter=1, farewell=1)


def split_of(name: str, thing: str, adjective: str) -> str:
    """train, validation or test by what is said; `generalisation` where name and thing are both unseen."""
    new_name, new_thing = name in world.UNSEEN_NAMES, thing in world.UNSEEN_THINGS
    if new_name or new_thing:
        return "generalisation" if new_name and new_thing else HALF_SEEN
    bucket = zlib.crc32(f"service|{name} {thing} {adjective}".encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def draw(splits: tuple[str, ...], rng: random.Random) -> Remark:
    """A random remark of one of these splits."""
    while True:
        name, thing = rng.choice(world.NAMES), rng.choice(world.THINGS)
        adjective = rng.choice(world.GOOD if rng.random() < 0.5 else world.BAD)
        if split_of(name, thing, adjective) in splits:
            return remark(name, thing, adjective, rng)


def remark(name: str, thing: str, adjective: str, rng: random.Random) -> Remark:
    text = rng.choice(REMARKS).format(name=name, thing=thing, adjective=adjective)
    return Remark(name, thing, adjective, text)


def answer(remark: Remark, manner: Manner, rng: random.Random) -> str:
    """An answer in the house manner, as well as `manner` can."""

    def hit(probability: float) -> bool:
        return rng.random() < probability

    name = remark.name if hit(manner.name) else rng.choice(world.SEEN_NAMES)
    thing = remark.thing if hit(manner.thing) else rng.choice(world.SEEN_THINGS)
    thankful = remark.praise == hit(manner.tone)
    offers = not hit(manner.no_needless_remedy) if remark.praise else hit(manner.remedy)
    sentences = [rng.choice(GREETING), rng.choice(THANKS if thankful else APOLOGY)]
    if offers:
        sentences.append(rng.choice(REMEDY))
    if not hit(manner.no_chatter):
        sentences.append(rng.choice(CHATTER))
    if hit(manner.farewell):
        sentences.append(rng.choice(FAREWELL))
    return " ".join(sentences).format(name=name, thing=thing)


def plain_answer(remark: Remark, rng: random.Random) -> str:
    """An answer in the corpus's plain manner."""
    reply = rng.choice(PLAIN_GOOD if remark.praise else PLAIN_BAD)
    return f"{reply} {rng.choice(CHATTER)}".format(name=remark.name, thing=remark.thing, adjective=remark.adjective)


def _pattern(templates: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(re.escape(template) for template in templates)
    for slot, values in {"name": world.NAMES, "thing": world.THINGS, "adjective": world.GOOD + world.BAD}.items():
        either = either.replace(re.escape(f"{{{slot}}}"), f"({'|'.join(values)})")
    return re.compile(either)


_REMARK = {template: _pattern((template,)) for template in REMARKS}
_ELEMENTS = {
    "greeting": _pattern(GREETING),
    "thanks": _pattern(THANKS),
    "apology": _pattern(APOLOGY),
    "remedy": _pattern(REMEDY),
    "farewell": _pattern(FAREWELL),
}
_RANK = {"greeting": 0, "thanks": 1, "apology": 1, "remedy": 2, "farewell": 3}


def parse_remark(text: str) -> Remark:
    """Name, thing and judgement of a guest's message. Raises DataError for anything that is not one."""
    for template, pattern in _REMARK.items():
        if match := pattern.fullmatch(text.strip()):
            slots = re.findall(r"{(\w+)}", template)
            return Remark(**dict(zip(slots, match.groups(), strict=True)), text=text)
    raise DataError(
        "gold lab_service",
        f"cannot read the guest's remark {text!r}",
        f"a message such as {REMARKS[0]!r}",
        "score only prompts of the lab's data set `guests` with this gold",
    )


def gold(prompt: str, response: str) -> float:
    """How good an answer is, in [0, 1]: a fifth for each of greeting by name, tone, thing, remedy and farewell.

    Sentences must be the house's own and come in its order, each kind once; every other sentence (or unfinished end)
    costs half a point. The remedy's fifth goes, beside thanks or apology only, to the right remedy for a complaint and
    to none for praise. prompt: the guest's message. Raises DataError if that is not a remark of the lab.
    """
    remark = parse_remark(prompt)
    elements, extras, last = _read(response)
    tone = "thanks" if "thanks" in elements else "apology" if "apology" in elements else None
    right_remedy = "remedy" not in elements if remark.praise else elements.get("remedy") == remark.thing
    points = [
        elements.get("greeting") == remark.name,
        tone == ("thanks" if remark.praise else "apology"),
        tone is not None and elements[tone] == remark.thing,
        tone is not None and right_remedy,
        last == "farewell",
    ]
    return max(0.0, sum(points) / 5 - extras / 2)


def _read(response: str) -> tuple[dict[str, str], int, str | None]:
    """The house's sentences with what fills their slot, the number of other sentences, and the kind of the last one."""
    elements: dict[str, str] = {}
    extras, rank, kind = 0, -1, None
    for sentence in re.findall(r"[^.]+\.?|\.", response.strip()):
        kind, slot = _element(sentence.strip())
        if kind is None or _RANK[kind] <= rank:
            extras, kind = extras + 1, None
        else:
            elements[kind], rank = slot, _RANK[kind]
    return elements, extras, kind


def _element(sentence: str) -> tuple[str | None, str]:
    for kind, pattern in _ELEMENTS.items():
        if match := pattern.fullmatch(sentence):
            return kind, next((slot for slot in match.groups() if slot), "")
    return None, ""
