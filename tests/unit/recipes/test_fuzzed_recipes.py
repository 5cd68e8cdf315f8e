"""Damaged recipes: whatever was done to a shipped one, it is checked, or one message says what is wrong with it. Never a traceback."""

import copy
import datetime
import math

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignment.core.errors import SuiteError
from recipes import check
from recipes.external import Externals
from recipes.plan import make_plan
from recipes.schema import find_recipe, load_recipe, shipped_recipes

TEXTS = {name: find_recipe(name).read_text(encoding="utf-8") for name in shipped_recipes()}
TREES = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
WORDS = sorted({word for text in TEXTS.values() for word in text.replace(":", " ").split() if word.isidentifier()})
ODD = [
    None, True, False, 0, -1, 1, 3.5, 1e308, -1e-308, math.nan, math.inf, 10**30, 10**400, "", " ", "1e-3", "ünï çødé", "\u202e", "\x00",
    "a\nb", "../..", "${NOT_SET}", "~", [], {}, [[]], [None], {"": 1}, {1: 2}, {None: None}, {"stage": "base"}, {"stage": "ppo"},
    {"path": "nowhere"}, {"path": "/"}, {"path": []}, {"lab": "guests", "stage": "base"}, b"bytes", {"a", "b"},
    datetime.date(2020, 2, 2), ["base", "base"], "lab_facts", "lab_facts@5shot", "no@9x", "x.yaml", [0, True], {"every": 1, "at": [1]},
]  # fmt: skip
PIECES = [
    "\t", " ", "\n", ":", "- ", "{", "}", "[", "]", "&a ", "*a", "*sft", "<<: *sft\n", "!!int x", "!!binary x", "!!set {a}",
    "!!timestamp x", "!!python/object:os.system x", "2020-99-99", "? [a]\n: b\n", "? {a: b}\n: c\n", "\ufeff", "\x00", "\u2028",
    "%YAML 9.9\n", "---\n", "...\n", "&r [*r]", "&r {x: *r}",
    "'", '"', "|", ">", "#", "@", "`", "!", "1_0", "1:30", "0x", ".inf", "null", "yes", "9" * 5000,
    "[" * 2000, "seeds: [0]\n", "kind: sft\n", "name: x\n",
]  # fmt: skip


def places(tree, path=()):
    """Every place in nested blocks, as a path of keys."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def other_values(draw):
    """A recipe as YAML, of which some keys are dropped, renamed, doubled, exchanged or have another value."""
    tree = copy.deepcopy(TREES[draw(st.sampled_from(sorted(TREES)))])
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(tree)) or [()]))
        block = tree
        for key in parents:
            block = block[key]
        match draw(st.sampled_from(["drop", "value", "value", "word", "rename", "wrap", "exchange", "again", "graft"])):
            case "drop":
                del block[last]
            case "value":
                block[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
            case "word":
                block[last] = draw(st.sampled_from(WORDS))
            case "rename" if isinstance(block, dict):
                block[draw(st.sampled_from([*WORDS, 1, None, "", "ü", 2.5, True]))] = block.pop(last)
            case "wrap":
                block[last] = draw(st.sampled_from([lambda value: [value], lambda value: {"stage": value}, str]))(
                    block[last]
                )
            case "exchange":
                block[last] = draw(st.sampled_from(list(block.values() if isinstance(block, dict) else block)))
            case "again" if isinstance(block, list):
                block.append(block[last])
            case "graft":
                *way, end = draw(st.sampled_from(list(places(tree))))
                other = tree
                for key in way:
                    other = other[key]
                block[last] = copy.deepcopy(other[end])
    return yaml.dump(tree, Dumper=getattr(yaml, "CDumper", yaml.Dumper), allow_unicode=True, sort_keys=False)


@st.composite
def other_texts(draw):
    """A recipe's text, of which pieces and lines are cut out, put in, doubled or indented."""
    text = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    for _ in range(draw(st.integers(1, 3))):
        lines = text.splitlines(keepends=True) or [""]
        start = draw(st.integers(0, len(text)))
        line = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["put", "put", "cut", "line out", "line twice", "indent", "tab", "end"])):
            case "put":
                text = text[:start] + draw(st.sampled_from(PIECES) | st.text(max_size=4)) + text[start:]
            case "cut":
                text = text[:start] + text[start + draw(st.integers(1, 30)) :]
            case "line out":
                text = "".join(lines[:line] + lines[line + 1 :])
            case "line twice":
                text = "".join(lines[: line + 1] + lines[line:])
            case "indent":
                text = "".join([*lines[:line], "  ", *lines[line:]])
            case "tab":
                text = "".join([*lines[:line], "\t", *lines[line:]])
            case "end":
                text = text[:start]
    return text


@pytest.fixture(scope="module")
def externals():
    """References to files and to rows are resolved for real, but each only once: the lab takes a second to make its larger sets."""
    real, seen = check.check_rows, {}

    def remembered(reference, alternatives, where, *column):
        key = (reference.model_dump_json(), alternatives, column)
        if key not in seen:
            seen[key] = real(reference, alternatives, where, *column)
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "check_rows", remembered)
        yield Externals()


def check_text(folder, text, externals):
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        recipe, _ = load_recipe(str(path))
        make_plan(recipe, externals)
        check.check_recipe(recipe)
    except SuiteError as error:
        assert error.where and error.what and error.expected and error.remedy, error


def fuzz(examples):
    def test(tmp_path, externals, text):
        check_text(tmp_path, text, externals)

    options = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=examples, **options)(given(text=other_values() | other_texts())(test))


test_300_damaged_recipes_are_checked_or_refused_in_words = fuzz(300)
test_2000_damaged_recipes_are_checked_or_refused_in_words = pytest.mark.slow(fuzz(2000))
