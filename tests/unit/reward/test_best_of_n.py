"""Best of n: the order statistics by hand and by enumeration, and the stage on a real model."""

import itertools
import math

import pytest

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import load_rows, write_rows
from alignment.models.reward_model import Normalisation, new_reward_model
from recipes.wiring import run_best_of_n
from reward.best_of_n import Judged, best_of, expected_best, what_n_buys
from reward.config import BestOfNConfig


def pool(*pairs):
    return [Judged(f"answer {index}", True, score, gold) for index, (score, gold) in enumerate(pairs)]


def test_the_best_of_n_from_one_pool_by_hand():
    answers = pool((1.0, 0.0), (3.0, 0.5), (2.0, 1.0))
    scores = [answer.score for answer in answers]
    assert expected_best(answers, 1, scores) == pytest.approx(2.0)
    assert expected_best(answers, 2, scores) == pytest.approx((2 + 3 + 3) / 3)  # pairs: (1, 2), (1, 3), (2, 3)
    assert expected_best(answers, 3, scores) == 3.0
    golds = [answer.gold for answer in answers]
    assert expected_best(answers, 2, golds) == pytest.approx(
        (1.0 + 0.5 + 0.5) / 3
    )  # the gold of the one with the best score


def test_order_statistics_agree_with_all_draws_also_with_equal_scores():
    answers = pool((0.3, 1), (0.3, 0), (-1.0, 2), (0.9, 5), (0.3, 7))
    golds = [answer.gold for answer in answers]
    for n in range(1, 6):
        draws = [best_of(draw).gold for draw in itertools.combinations(answers, n)]
        assert expected_best(answers, n, golds) == pytest.approx(sum(draws) / len(draws))


def test_what_n_buys_is_told_for_powers_of_two_and_the_whole_pool():
    bought = what_n_buys([pool((1, 1), (2, 0), (3, 0.5)), pool((0, 0), (0, 1), (0, 0.5))])
    assert [key for key in bought if key.endswith("score")] == [f"best_of_{n}/score" for n in (1, 2, 3)]
    assert bought["best_of_3/score"] == pytest.approx(1.5)
    assert bought["best_of_3/gold"] == pytest.approx((0.5 + 0) / 2)  # of equal scores the first
    assert bought["best_of_1/kl_bound"] == 0 and bought["best_of_2/kl_bound"] == pytest.approx(math.log(2) - 0.5)


@pytest.fixture
def prompts(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"{a} {b}"}]} for a in ("the", "cow", "dog") for b in ("is", "was")]
    write_rows(rows, tmp_path / "prompts.jsonl")
    return tmp_path / "prompts.jsonl"


def config_for(prompts, folder, **settings):
    base = {"model": {"path": str(folder)}, "prompts": {"path": str(prompts)}, "engine": "hf", "samples": 3}
    return BestOfNConfig.model_validate(base | {"max_new_tokens": 6} | settings)


def test_the_rows_hold_the_answers_that_a_reward_model_likes_best(tiny_folder, prompts, tmp_path):
    new_reward_model(tiny_folder).save_pretrained(tmp_path / "reward")
    Normalisation(0.0, 1.0).write(tmp_path / "reward")
    for file in tiny_folder.glob("tokenizer*"):
        (tmp_path / "reward" / file.name).write_bytes(file.read_bytes())
    config = config_for(prompts, tiny_folder, reward={"path": str(tmp_path / "reward")})
    inputs = {
        "model": Artifact("model", "m", tiny_folder),
        "reward": Artifact("reward_model", "r", tmp_path / "reward"),
    }
    summary = run_best_of_n(config, inputs, Context.at(tmp_path / "out"))
    rows = load_rows(DataRef(path=str(tmp_path / "out" / "train.jsonl")))
    assert summary["rows"] + summary["dropped"] == 6 and len(rows) == summary["rows"]
    assert all(row["completion"][0]["role"] == "assistant" and "finished" in row for row in rows)
    assert summary["best_of_1/score"] < summary["best_of_2/score"] < summary["best_of_3/score"]
    assert summary["best_of_3/score"] == pytest.approx(sum(row["score"] for row in rows) / 6) or summary["dropped"]


def test_a_bar_that_no_answer_passes_is_an_error_and_a_judge_is_needed(tiny_folder, tmp_path):
    remarks = [{"prompt": [{"role": "user", "content": "Hallu here. The soup was cold."}]}]
    write_rows(remarks, tmp_path / "prompts.jsonl")
    with pytest.raises(ValueError, match="no judge"):
        config_for(tmp_path / "prompts.jsonl", tiny_folder)
    config = config_for(tmp_path / "prompts.jsonl", tiny_folder, gold="vader", above=2.0)
    with pytest.raises(DataError, match="no row is left"):
        run_best_of_n(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path / "out"))
