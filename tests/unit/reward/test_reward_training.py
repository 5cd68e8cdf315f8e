import json
import math

import pytest
import torch
from pydantic import ValidationError

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError, ModelError
from alignment.data.rows import write_rows
from alignment.generation.engine import Completion
from alignment.models.encoding import encode_answer, length_batches
from alignment.models.load import load_tokenizer
from alignment.models.reward_model import load_reward_model, new_reward_model
from reward.config import RewardConfig
from reward.scorer import Normalisation, RewardScorer, raw_scores
from reward.stage import _encode_pairs, _trainer, bradley_terry_loss, run

NOUNS = ["cow", "dog", "cat"]
FILLERS = ["is", "was", "and", "the", "eats", "runs"]


def pairs(count: int) -> list[dict]:
    """Whoever says `good` wins over `bad`, wherever it stands."""
    rows = []
    for n in range(count):
        before, after = FILLERS[n % 6], FILLERS[n // 6 % 6]
        chosen, rejected = (f" {before} {word} {after}" for word in ("good", "bad"))
        gold = {"chosen_gold": 1.0, "rejected_gold": 0.0}
        rows.append({"prompt": f"why {NOUNS[n % 3]}", "chosen": chosen, "rejected": rejected} | gold)
    return rows


def train(tiny_folder, tmp_path, name="out", **settings):
    write_rows(pairs(72), tmp_path / "train.jsonl")
    held_out = pairs(36)[::5]
    held_out[0] |= {"chosen_gold": 0.0, "rejected_gold": 1.0}  # one label against gold
    held_out[1] |= {"chosen_gold": 0.5, "rejected_gold": 0.5}  # one tie
    write_rows(held_out, tmp_path / "validation.jsonl")
    config = RewardConfig.model_validate(
        {
            "model": {"path": str(tiny_folder)},
            "data": {"path": str(tmp_path / "train.jsonl")},
            "validation": {"path": str(tmp_path / "validation.jsonl")},
            "learning_rate": 3e-3,
        }
        | settings
    )
    return run(config, {"model": Artifact("model", "d", tiny_folder)}, Context.at(tmp_path / name))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_it_learns_which_word_wins_and_is_normalised_on_its_answers(tiny_folder, tmp_path, pooling):
    summary = train(tiny_folder, tmp_path, pooling=pooling)
    assert summary["validation_pairs"] == 8
    assert summary["validation_accuracy"] == 1.0
    assert summary["gold_accuracy"] == pytest.approx(6 / 7)  # the swapped one counts as wrong, the tie not at all
    assert summary["label_gold_agreement"] == pytest.approx(6 / 7)
    scorer, tokenizer = RewardScorer(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    completions = [
        completion(tokenizer, row["prompt"], row[side]) for row in pairs(72) for side in ("chosen", "rejected")
    ]
    scores = scorer(completions)
    assert scores.dtype == torch.float32 and scores.shape == (144,)
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (scores[::2] > scores[1::2]).all()
    saved = json.loads((tmp_path / "out" / "reward_normalisation.json").read_text())
    assert saved == {"mean": summary["reward_mean"], "std": summary["reward_std"]}


def completion(tokenizer, prompt: str, answer: str) -> Completion:
    encoded = encode_answer(tokenizer, prompt, answer)
    start = encoded.mask.index(True)
    return Completion(encoded.ids[:start], encoded.ids[start:], [0.0] * sum(encoded.mask), finished=True)


def test_normalisation_on_rows_of_ones_own(tiny_folder, tmp_path):
    write_rows([{"prompt": "why cow", "completion": " is good"}], tmp_path / "one.jsonl")
    train(tiny_folder, tmp_path, epochs=1, normalise_on={"path": str(tmp_path / "one.jsonl")})
    scorer, tokenizer = RewardScorer(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    assert scorer([completion(tokenizer, "why cow", " is good")]).item() == pytest.approx(0, abs=0.1)
    assert scorer.normalisation.std == pytest.approx(1e-6)


def test_normalisation_by_hand(tmp_path):
    normalisation = Normalisation.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert normalisation.mean == 3.0
    assert normalisation.std == pytest.approx(math.sqrt(3.5))  # (4 + 1 + 0 + 9) / 4
    normalisation.write(tmp_path)
    assert Normalisation.read(tmp_path) == normalisation
    with pytest.raises(ModelError, match=r"no reward_normalisation\.json"):
        Normalisation.read(tmp_path / "elsewhere")


def test_the_loss_on_two_pairs_by_hand_and_by_trl(tiny_folder, tmp_path):
    """trl's loss on our collated batch is -log sigmoid of the margins that `raw_scores` finds."""
    by_hand = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(0.5))) / 2
    assert bradley_terry_loss(torch.tensor([2.0, -0.5])).item() == pytest.approx(by_hand)
    tokenizer = load_tokenizer(tiny_folder)
    config = RewardConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}})
    rows = [pairs(1)[0], {"prompt": "who", "chosen": " yes", "rejected": " no no the cow eats"}]
    for pooling in ("last", "mean"):
        model = new_reward_model(tiny_folder, pooling)
        _, encoded = _encode_pairs(tokenizer, rows, 64, "data")
        trainer = _trainer(config, Context.at(tmp_path / pooling), model, tokenizer, encoded)
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(2)])
        margins = raw_scores(model, encoded[0]) - raw_scores(model, encoded[1])
        expected = -(torch.sigmoid(margins).log()).mean()
        torch.testing.assert_close(trainer.compute_loss(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_scores_do_not_depend_on_company_or_order(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    answers = [" good" * (n % 7 + 1) for n in range(20)]
    encoded = [encode_answer(tokenizer, "why the cow", answer) for answer in answers]
    for pooling in ("last", "mean"):
        model = new_reward_model(tiny_folder, pooling).train()
        alone = torch.cat([raw_scores(model, [row]) for row in encoded])
        torch.testing.assert_close(raw_scores(model, encoded, batch_tokens=64), alone, atol=1e-5, rtol=1e-5)
        assert model.training


def test_batches_hold_similar_lengths_within_the_budget():
    assert length_batches([3, 10, 4, 9, 30], batch_tokens=20) == [[4], [1, 3], [2, 0]]


def test_mean_pooling_reads_only_the_answer(tiny_folder, tmp_path):
    """The prompt shapes the answer's hidden states, but its own are not in the mean."""
    model = new_reward_model(tiny_folder, "mean").eval()
    encoded = encode_answer(load_tokenizer(tiny_folder), "why the cow", " is good")
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([encoded.ids])).last_hidden_state[0]
        expected = model.score(hidden[3:6].mean(0))
    torch.testing.assert_close(raw_scores(model, [encoded]), expected)


def test_answers_that_were_cut_off_have_no_end(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    row = {"prompt": "why", "chosen": " yes", "rejected": " no no", "rejected_finished": False}
    _, (chosen, rejected) = _encode_pairs(tokenizer, [row], 64, "data")
    assert tokenizer.decode(chosen[0].ids) == "why yes <|end|>"
    assert tokenizer.decode(rejected[0].ids) == "why no no"


def test_a_pair_with_one_empty_side_is_dropped_whole(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    empty = {"prompt": "why", "chosen": "", "rejected": " no", "chosen_finished": False}
    rows = [pairs(1)[0], empty, {"prompt": "who", "chosen": " yes", "rejected": " big"}]
    kept, (chosen, rejected) = _encode_pairs(tokenizer, rows, 64, "data")
    assert kept == [rows[0], rows[2]]
    assert [tokenizer.decode(side[1].ids) for side in (chosen, rejected)] == ["who yes <|end|>", "who big <|end|>"]
    with pytest.raises(DataError, match="no token to learn"):
        _encode_pairs(tokenizer, [empty], 64, "data")


def test_validation_on_the_training_rows_is_refused():
    data = {"path": "rows.jsonl"}
    with pytest.raises(ValidationError, match="validation equals data"):
        RewardConfig.model_validate({"model": {"path": "m"}, "data": data, "validation": data})


def test_pairs_beyond_the_context_stop_the_run(tiny_folder, tmp_path):
    write_rows([*pairs(2), {"prompt": "why", "chosen": " no" * 80, "rejected": " yes"}], tmp_path / "long.jsonl")
    with pytest.raises(DataError, match="data, chosen: row 3: longer than 64"):
        train(tiny_folder, tmp_path, data={"path": str(tmp_path / "long.jsonl")})


def test_the_saved_head_is_the_trained_one(tiny_folder, tmp_path):
    train(tiny_folder, tmp_path, epochs=1)
    fresh = new_reward_model(tiny_folder, "last", seed=Context.at(tmp_path / "x").seed_for("head"))
    trained = load_reward_model(tmp_path / "out")
    assert 1e-4 < (trained.score.weight - fresh.score.weight).abs().max() < 0.5
