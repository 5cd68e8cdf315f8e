"""What a recipe may say about win rates, what is refused, and which cells follow."""

import pytest
import yaml

from alignment.core.errors import RecipeError
from eval.win_config import Judge
from recipes.check import check_recipe
from recipes.external import Externals
from recipes.plan import make_plan
from recipes.schema import parse_recipe

RECIPE = """
name: test/wins
seeds: [0, 1]
stages:
  base: {kind: pretrain, seed: 0}
  sft: {kind: sft, model: {stage: base}, data: {lab: demonstrations, rows: 20}, steps: 2}
  pairs: {kind: preferences, model: {stage: sft}, prompts: {lab: guests, rows: 20}, gold: lab_service}
  reward: {kind: reward, model: {stage: sft}, data: {stage: pairs}}
evaluation:
  models: [base, sft]
  retained: [lab_facts]
  win_rates:
    - models: [base, sft]
      prompts: {lab: guests, split: test, rows: 10}
      judge: {reward: {stage: reward}}
    - models: [base, sft]
      prompts: {lab: guests, split: test, rows: 10}
      judge: {rule: lab_service}
"""


def recipe(**changes):
    """The recipe with fields of its second win rate replaced."""
    raw = yaml.safe_load(RECIPE)
    raw["evaluation"]["win_rates"][1] |= changes
    return parse_recipe(raw, "wins.yaml")


def test_each_win_rate_is_a_cell_of_every_seed_that_needs_both_models_and_the_judge():
    plan = make_plan(recipe(), Externals())
    cells = [cell for cell in plan.cells if cell.config.kind == "win_rate"]
    assert [cell.label for cell in cells] == [f"win_rate-{n}-base-sft-seed{s}" for s in (0, 1) for n in (0, 1)]
    assert sorted(cells[0].inputs) == ["judge.reward", "model", "reference"]
    assert cells[0].inputs["model"] is plan.by_stage["sft", 0] and cells[2].inputs["model"] is plan.by_stage["sft", 1]
    assert cells[0].inputs["reference"] is cells[2].inputs["reference"]
    assert len({cell.digest for cell in cells}) == 4


def test_a_win_rate_does_not_touch_the_digest_of_an_evaluation():
    raw = yaml.safe_load(RECIPE)
    del raw["evaluation"]["win_rates"]
    without = {cell.digest for cell in make_plan(parse_recipe(raw, "r"), Externals()).cells}
    assert without < {cell.digest for cell in make_plan(recipe(), Externals()).cells}


def test_check_reads_the_prompts():
    checked = check_recipe(recipe())
    assert [(data.where, data.rows) for data in checked if "win_rates" in data.where] == [
        ("evaluation.win_rates.0.prompts", 10),
        ("evaluation.win_rates.1.prompts", 10),
    ]


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"models": ["sft", "sft"]}, "win_rates", "against itself"),
        ({"judge": {}}, "judge", "exactly one of reward, rule, url"),
        ({"judge": {"rule": "longer", "url": "http://h"}}, "judge", "exactly one of reward, rule, url"),
        ({"judge": {"rule": "nicer"}}, "rule", "no rule 'nicer'; there are lab_service, vader, longer, shorter"),
        ({"judge": {"url": "127.0.0.1:8000", "model": "m"}}, "url", "pattern"),
        ({"judge": {"url": "http://127.0.0.1:8000/v1"}}, "judge", "needs `model`"),
        ({"judge": {"rule": "longer", "key_env": "KEY"}}, "judge", "belong to a judge at a url"),
        ({"judge": {"url": "http://h/v1", "model": "m", "template": "{first}"}}, "judge", "no {second}"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"limit": 5}, "limit", "unknown key"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(changes, where, message):
    with pytest.raises(RecipeError) as caught:
        recipe(**changes)
    assert "evaluation.win_rates.1" in caught.value.where and where in caught.value.where
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"models": ["base", "ppo"]}, "evaluation.win_rates.1.model", "there is no stage 'ppo'"),
        ({"models": ["base", "pairs"]}, "evaluation.win_rates.1.model", "stage 'pairs' makes a dataset"),
        ({"judge": {"reward": {"stage": "sft"}}}, "evaluation.win_rates.1.judge.reward", "makes a model"),
    ],
)
def test_references_that_do_not_fit_are_refused_by_the_plan(changes, where, message):
    with pytest.raises(RecipeError) as caught:
        make_plan(recipe(**changes), Externals())
    assert caught.value.where == where and message in caught.value.what


def test_a_model_that_is_not_evaluated_is_refused():
    raw = yaml.safe_load(RECIPE)
    raw["evaluation"]["models"] = ["sft"]
    with pytest.raises(RecipeError, match="'base' is not among the evaluated models"):
        check_recipe(parse_recipe(raw, "r"))


def test_a_judge_has_a_name_for_reports():
    assert Judge(rule="longer").name == "rule longer"
    assert Judge(url="http://127.0.0.1:1/v1", model="llama").name == "llama at http://127.0.0.1:1/v1"
