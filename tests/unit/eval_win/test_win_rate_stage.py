"""The stage `win_rate` with real models of a few thousand parameters."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from chat_server import prefers_the_longer, serving

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef, ModelRef
from alignment.core.context import Context
from alignment.core.errors import DataError, ModelError
from alignment.models.load import load_causal_lm, load_tokenizer
from alignment.models.reward_model import Normalisation, new_reward_model, separate_pad
from eval import win_rate
from eval.win_config import Judge, WinRateConfig
from eval.win_rate_files import ABOUT, PAIRS
from recipes.wiring import run_win_rate

PROMPTS = ["the cow", "why is the dog red", "who runs and eats", "what is big", "yes", "the small cat"]


@pytest.fixture(scope="module")
def models(tiny_folder, tmp_path_factory):
    """Two models with the same tokenizer and other weights."""
    folder = tmp_path_factory.mktemp("other")
    model = load_causal_lm(tiny_folder, dropout=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    load_tokenizer(tiny_folder).save_pretrained(folder)
    return {"reference": Artifact("model", "a", tiny_folder), "model": Artifact("model", "b", folder)}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": text if number % 2 else [{"role": "user", "content": text}]} for number, text in enumerate(PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataRef(path=str(path))


def config_for(prompts, judge: Judge, **settings) -> WinRateConfig:
    references = {"reference": ModelRef(stage="a"), "model": ModelRef(stage="b")}
    return WinRateConfig(seed=0, **references, prompts=prompts, judge=judge, max_new_tokens=8, **settings)


def judged(config, inputs, folder, seed=0):
    summary = run_win_rate(config, inputs, Context.at(folder, seed=seed))
    return summary, pq.read_table(folder / PAIRS).to_pylist()


def test_every_prompt_is_answered_by_both_and_judged(models, prompts, tmp_path):
    summary, rows = judged(config_for(prompts, Judge(rule="longer")), models, tmp_path / "out")
    assert [row["prompt"] for row in rows] == PROMPTS
    for row in rows:
        assert (row["reference_score"], row["new_score"]) == (len(row["reference_answer"]), len(row["new_answer"]))
        assert row["win"] == (
            0.5 + 0.5 * ((row["new_score"] > row["reference_score"]) - (row["new_score"] < row["reference_score"]))
        )
    assert summary["win_rate"] == pytest.approx(sum(row["win"] for row in rows) / 6) and summary["no_verdict"] == 0
    assert json.loads((tmp_path / "out" / ABOUT).read_text())["judge"] == "rule longer"
    assert any(row["reference_answer"] != row["new_answer"] for row in rows)


def test_answers_depend_on_the_seed_alone_not_on_batches(models, prompts, tmp_path):
    _, whole = judged(config_for(prompts, Judge(rule="longer")), models, tmp_path / "whole")
    _, one_by_one = judged(config_for(prompts, Judge(rule="longer"), batch_size=1), models, tmp_path / "single")
    _, other = judged(config_for(prompts, Judge(rule="longer")), models, tmp_path / "other", seed=1)
    assert whole == one_by_one and whole != other


def test_a_model_against_itself_draws_other_answers_for_each_side(models, prompts, tmp_path):
    same = {"reference": models["reference"], "model": models["reference"]}
    _, rows = judged(config_for(prompts, Judge(rule="longer")), same, tmp_path / "sampled")
    assert any(row["reference_answer"] != row["new_answer"] for row in rows)
    summary, rows = judged(config_for(prompts, Judge(rule="longer"), temperature=0.0), same, tmp_path / "greedy")
    assert all(row["reference_answer"] == row["new_answer"] for row in rows) and summary["ties"] == 6


def test_a_reward_model_judges_through_the_runner(models, prompts, tmp_path):
    folder = tmp_path / "reward"
    model, tokenizer = new_reward_model(models["reference"].path, seed=3), load_tokenizer(models["reference"].path)
    separate_pad(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Normalisation(0.0, 1.0).write(folder)
    inputs = models | {"judge.reward": Artifact("reward_model", "r", folder)}
    config = config_for(prompts, Judge(reward=ModelRef(stage="reward")))
    _, rows = judged(config, inputs, tmp_path / "out")
    assert all(row["win"] == float(row["new_score"] > row["reference_score"]) for row in rows)
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["cow"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cow"]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ModelError, match="2 tokens have another id"):
        judged(config, inputs, tmp_path / "again")


def test_a_judge_at_a_url_is_asked_once_even_if_the_cell_starts_again(models, prompts, tmp_path):
    with serving(prefers_the_longer) as server:
        config = config_for(prompts, Judge(url=server.url, model="judge"))
        _, rows = judged(config, models, tmp_path / "out")
        asked = len(server.requests)
        _, again = judged(config, models, tmp_path / "out")
        assert again == rows and len(server.requests) == asked
    different = [row for row in rows if row["reference_answer"] != row["new_answer"]]
    assert asked == 2 * len(different) > 0
    for row in different:
        longer = len(row["new_answer"]) - len(row["reference_answer"])
        assert row["win"] == (0.5 if longer == 0 else float(longer > 0))


def test_prompts_without_the_field_and_prompts_too_long_are_told(models, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"question": "?"}) + "\n")
    with pytest.raises(DataError, match="no field 'prompt'"):
        judged(config_for(DataRef(path=str(path)), Judge(rule="longer")), models, tmp_path / "bad")
    path.write_text(json.dumps({"prompt": "cow " * 60}) + "\n")
    with pytest.raises(ModelError, match="60 tokens of prompt and 8 new ones do not fit its context of 64"):
        judged(config_for(DataRef(path=str(path)), Judge(rule="longer")), models, tmp_path / "long")


def test_text_after_a_plain_prompt_keeps_its_first_space(models):
    tokenizer = load_tokenizer(models["reference"].path)
    ids = tokenizer("the cow")["input_ids"]
    [said] = win_rate.sample(
        models["reference"].path,
        ["the cow"],
        config_for(DataRef(path="x"), Judge(rule="longer"), temperature=0.0),
        0,
        lambda done, total: None,
    )
    assert said.completion.prompt_ids == ids and said.text.startswith(" ")
