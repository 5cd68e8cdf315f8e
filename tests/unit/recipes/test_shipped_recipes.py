"""Every shipped recipe passes `align check` on a machine without network, and says at its head what a reader needs to know."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from recipes.check import check_recipe
from recipes.external import Externals
from recipes.plan import make_plan
from recipes.schema import SHIPPED, load_recipe, shipped_recipes

needs_assets = pytest.mark.skipif("ALIGN_ASSETS" not in os.environ, reason="ALIGN_ASSETS is not set: no real files")
NAMES = [pytest.param(n, marks=needs_assets if n.startswith("stories/") else ()) for n in shipped_recipes()]


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_check_offline(name, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    recipe, _ = load_recipe(name)
    externals = Externals(fetch=False)
    plan = make_plan(recipe, externals)
    check_recipe(recipe)
    assert recipe.name == name
    assert len({cell.digest for cell in plan.cells}) == len(plan.cells) > 0
    assert bool(externals.unreached) == name.startswith("classic/")


@pytest.mark.parametrize("path", sorted((SHIPPED / "classic").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_classic_says_where_it_comes_from_and_that_it_was_tried_small(path: Path):
    head = path.read_text().split("name:")[0]
    for word in (
        "# Question:",
        "# Taught by:",
        "# Hardware:",
        "Memory:",
        "# Expected:",
        "# Tried here only with a small model",
    ):
        assert word in head, word
