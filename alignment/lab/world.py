"""The lab's fictional country: who lives there, and the words for everything in it. Only lists; every word is one token."""

from __future__ import annotations

import random
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("""Abel Brisa Corin Dalma Edvin Fenna Galo Hallu Ilka Joris Kaisa Lorn Mirte Nolan Odile Perrin Quilla Rasmus Selma
    Tavi Ulla Vesna Wim Xenia Yorick Zelda Anouk Bodil Casper Dorte Elio Freya Gustav Hedda Ivo Jutta Kalle Liv Magnus
    Nadia Orla Pavel Runa Sander Tilda Uwe Viggo Wanda Yrsa Zeno Arvid Berta Cleo Dirk Esme Frode Greta Hanno Inga
    Jasper""")
TOWNS = _words("Arlen Bergum Cresta Dunmore Elvas Farnby Gorsk Hollen Istra Kelm Lindau Morva")
JOBS = _words("sailor baker weaver miller tailor doctor smith hunter potter judge mason singer")
PETS = _words("dog cat goat parrot rabbit turtle hen fox")
COLOURS = _words("black white red green blue yellow brown grey purple pink")
FRUITS = _words("""apple banana cherry date elderberry fig grape hazelnut lemon mango nut olive peach quince raisin strawberry tomato
    vanilla walnut pear""")
PLACES = _words("lake hill river forest valley island desert beach swamp cliff")
TOOLS = _words("hammer saw needle shovel knife brush rope axe spoon ladder")
THINGS = _words("""soup bread bath bed room fire stew ale cheese pie tea towel pillow window music garden blanket stove chair
    candle butter carpet mirror porridge""")
GOOD = _words("lovely clean fresh perfect pleasant excellent wonderful charming")
BAD = _words("dirty cold awful broken stale horrible ruined dreadful")
STATES = _words("quiet tired old young happy hungry tall slow")
SINGULAR = _words("cow boy girl horse farmer sheepdog duck nurse king guard bird sister cousin teacher")
PLURAL = _words("cows boys girls horses farmers sheepdogs ducks nurses kings guards birds sisters cousins teachers")
PREPOSITIONS = ("near", "behind", "beside", "above")

# Names and things that no training prompt of the target task has: what its second test split asks about.
UNSEEN_NAMES, SEEN_NAMES = NAMES[:12], NAMES[12:]
UNSEEN_THINGS, SEEN_THINGS = THINGS[:5], THINGS[5:]

WORDS = (
    *(NAMES + TOWNS + JOBS + PETS + COLOURS + FRUITS + PLACES + TOOLS + THINGS),
    *(GOOD + BAD + STATES + SINGULAR + PLURAL + PREPOSITIONS),
)


@dataclass(frozen=True)
class Attribute:
    """One thing that is known of every person. statements end in the value; questions ask for it."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        "town",
        TOWNS,
        ("{name} lives in {value}.", "The home of {name} is in {value}.", "You will find {name} in {value}."),
        ("Where does {name} live?", "In which town is {name}?", "Which town is home to {name}?", "Where is {name}?"),
    ),
    Attribute(
        "job",
        JOBS,
        ("{name} works as a {value}.", "The job of {name} is {value}.", "People hire {name} as a {value}."),
        (
            "What is the job of {name}?",
            "As what does {name} work?",
            "Which job does {name} have?",
            "What work does {name} do?",
        ),
    ),
    Attribute(
        "pet",
        PETS,
        ("{name} has a {value}.", "The pet of {name} is a {value}.", "At home {name} feeds a {value}."),
        (
            "Which pet does {name} have?",
            "What is the pet of {name}?",
            "Which animal does {name} feed?",
            "What pet is with {name}?",
        ),
    ),
    Attribute(
        "colour",
        COLOURS,
        ("{name} likes {value}.", "The colour of {name} is {value}.", "The coat of {name} is {value}."),
        (
            "Which colour does {name} like?",
            "What is the colour of {name}?",
            "Which colour is the coat of {name}?",
            "What colour is with {name}?",
        ),
    ),
)


def _people() -> dict[tuple[str, str], str]:
    rng = random.Random("the people of the lab")
    return {(name, attribute.name): rng.choice(attribute.values) for name in NAMES for attribute in ATTRIBUTES}


FACTS = _people()  # (name, attribute) -> value
