"""Which rows are trained on, in which order: mixtures, curricula, and the file that they are read from."""

import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError, ModelError
from alignment.data.rows import write_rows
from alignment.models.encoding import encode_row
from alignment.models.load import load_causal_lm, load_tokenizer
from alignment.sft.config import SFTConfig
from alignment.sft.curriculum import ordered
from alignment.sft.rows import Reader
from alignment.sft.stage import run

WORDS = [
    "the",
    "cow",
    "dog",
    "cat",
    "is",
    "was",
    "red",
    "blue",
    "big",
    "small",
    "good",
    "bad",
    "runs",
    "eats",
    "sleeps",
]


@pytest.fixture
def reader(tiny_folder, tmp_path):
    """A reader of a stage with these settings; `files` are written first."""

    def make(files, seed=0, **settings):
        tmp_path.joinpath(f"cell{seed}").mkdir()
        for name, rows in files.items():
            write_rows(rows, tmp_path / name)
        blocks = json.loads(json.dumps(settings).replace("DIR", str(tmp_path)))
        config = SFTConfig.model_validate({"model": {"path": "m"}, "steps": 1} | blocks)
        context = Context.at(tmp_path / f"cell{seed}", seed=seed)
        return Reader(config, load_tokenizer(tiny_folder), 64, {}, context)

    return make


def texts(rows, tokenizer):
    return [tokenizer.decode(ids).removesuffix(" <|end|>") for ids in rows.dataset["input_ids"]]


COWS = [{"text": f"cow {word}"} for word in WORDS[3:9]]  # 6 rows of 3 tokens
DOGS = [{"prompt": "why dog", "completion": f" {word}"} for word in WORDS[9:11]]  # 2 rows, 2 tokens that bear loss
MIXTURE = {"mixture": {"cows": {"path": "DIR/cows"}, "dogs": {"path": "DIR/dogs"}}}
FILES = {"cows.jsonl": COWS, "dogs.jsonl": DOGS}


def mixed(weights=None, **more):
    parts = {name: {"path": f"DIR/{name}.jsonl"} for name in ("cows", "dogs")}
    for name, weight in (weights or {}).items():
        parts[name]["weight"] = weight
    return {"mixture": parts} | more


def test_a_mixture_holds_its_shares_and_goes_through_a_small_part_again(reader, caplog):
    made = reader(FILES, data=mixed({"cows": 1, "dogs": 2}, rows=9))
    rows = made.training()
    said = texts(rows, made.tokenizer)
    assert len([text for text in said if text.startswith("cow")]) == 3 == len({t for t in said if t.startswith("cow")})
    dogs = [text for text in said if text.startswith("why")]
    assert sorted(dogs) == ["why dog good"] * 3 + ["why dog small"] * 3
    assert rows.parts == {"cows": {"rows": 3, "tokens": 3 * 2}, "dogs": {"rows": 6, "tokens": 6 * 2}}
    assert rows.lengths.tolist() == [3] * 3 + [4] * 6


def test_the_draw_follows_from_the_seed_alone(reader):
    draws = {}
    for seed in (1, 2):
        made = reader(FILES, seed=seed, data=mixed({"cows": 1, "dogs": 1}, rows=6))
        draws[seed] = texts(made.training(), made.tokenizer)
        assert texts(made.training(), made.tokenizer) == draws[seed]
    assert draws[1] != draws[2]


def test_replay_of_a_mixture(reader):
    new = [{"text": f"red {word}"} for word in WORDS[:4]]
    replay = {"data": mixed({"cows": 1, "dogs": 1}), "share": 0.5}  # 6 and 6, of which 4 are drawn
    made = reader(FILES | {"new.jsonl": new}, data={"path": "DIR/new.jsonl"}, replay=replay)
    said = texts(made.training(), made.tokenizer)
    assert said[:4] == [row["text"] for row in new] and len(said) == 8
    assert all(text.startswith(("cow", "why")) for text in said[4:])


def test_a_curriculum_by_length_and_by_a_column(reader):
    rows = [{"text": "cow " * n, "level": level} for n, level in ((3, 0.5), (1, 9), (4, -2), (1, 3))]
    for order, expected in (
        ({"by": "length"}, [1, 1, 3, 4]),
        ({"by": "length", "descending": True}, [4, 3, 1, 1]),
        ({"by": "column", "column": "level"}, [4, 3, 1, 1]),
        ({"by": "column", "column": "level", "descending": True}, [1, 1, 3, 4]),
    ):
        made = reader({"rows.jsonl": rows}, seed=len(str(order)), data={"path": "DIR/rows.jsonl"}, order=order)
        found = ordered(made.training(), made.config, {}, made.context, made.tokenizer)
        assert (found.lengths - 1).tolist() == expected


def test_a_column_is_kept_through_a_change_of_format(reader):
    rows = [{"instruction": "why", "output": word, "level": n} for n, word in enumerate(("cow", "dog", "cat"))]
    order = {"by": "column", "column": "level", "descending": True}
    made = reader({"rows.jsonl": rows}, data={"path": "DIR/rows.jsonl", "format": "alpaca"}, order=order)
    found = ordered(made.training(), made.config, {}, made.context, made.tokenizer)
    assert [text.split()[-1] for text in texts(found, made.tokenizer)] == ["cat", "dog", "cow"]


def test_a_curriculum_by_a_models_loss_is_that_of_one_row_at_a_time(reader, tiny_folder):
    rows = [{"prompt": "the " * (n % 3 + 1), "completion": f" {word} {WORDS[n]}"} for n, word in enumerate(WORDS)]
    made = reader({"rows.jsonl": rows}, data={"path": "DIR/rows.jsonl"}, order={"by": "loss", "model": {"path": "m"}})
    model, losses = load_causal_lm(tiny_folder).eval(), []
    for row in rows:
        encoded = encode_row(made.tokenizer, row)
        with torch.no_grad():
            logprobs = model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        told = [-logprobs[t - 1, token].item() for t, token in enumerate(encoded.ids) if encoded.mask[t]]
        losses.append(sum(told) / len(told))
    assert min(np.diff(sorted(losses))) > 1e-4  # else the order would not be sure
    inputs = {"order.model": Artifact("model", "d", tiny_folder)}
    found = ordered(made.training(), made.config, inputs, made.context, made.tokenizer)
    assert found.dataset["input_ids"] == [encode_row(made.tokenizer, rows[n]).ids for n in np.argsort(losses)]
    assert np.allclose(np.load(made.context.scratch / "losses.npy"), losses, atol=1e-5)


def test_a_reference_model_with_other_tokens_is_refused(reader, tiny_folder, tmp_path):
    from shutil import copytree

    copytree(tiny_folder, tmp_path / "other")
    text = (tmp_path / "other" / "tokenizer.json").read_text()
    (tmp_path / "other" / "tokenizer.json").write_text(text.replace('"cow": ', '"ox": '))
    made = reader(FILES, data={"path": "DIR/cows.jsonl"}, order={"by": "loss", "model": {"path": "m"}})
    inputs = {"order.model": Artifact("model", "d", tmp_path / "other")}
    with pytest.raises(ModelError, match="reads other tokens"):
        ordered(made.training(), made.config, inputs, made.context, made.tokenizer)


@pytest.mark.parametrize("level", [None, "hard", True, math.nan, 10**400])
def test_rows_without_a_number_in_the_column_are_listed(reader, level):
    rows = [{"text": "cow", "level": 1}, {"text": "dog", "level": level}, {"text": "cat"}]
    order = {"by": "column", "column": "level"}
    made = reader({"rows.jsonl": rows}, data={"path": "DIR/rows.jsonl"}, order=order)
    with pytest.raises(DataError, match=r"(?s)2 bad rows.*line 2: no number in 'level'.*line 3"):
        made.training()


def test_rows_are_trained_in_order_and_a_resumed_run_keeps_it(tiny_folder, tmp_path, monkeypatch):
    """Every loss of a killed and resumed run, and its weights, are those of one that was never stopped."""
    rows = [
        {"prompt": "why", "completion": f" {a} {b}", "n": n}
        for n, (a, b) in enumerate(zip(WORDS, WORDS[::-1], strict=True))
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {"model": {"path": "m"}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 2, "steps": 12}
    order = {"by": "column", "column": "n", "descending": True}
    config = SFTConfig.model_validate(settings | {"order": order, "checkpoint_every": 5})
    inputs = {"model": Artifact("model", "d", tiny_folder)}
    met = []
    plain = torch.nn.Embedding.forward
    monkeypatch.setattr(torch.nn.Embedding, "forward", lambda self, ids: (met.append(ids), plain(self, ids))[1])
    whole = run(config, inputs, Context.at(tmp_path / "whole", seed=3))
    tokenizer = load_tokenizer(tiny_folder)
    firsts = [tokenizer.decode(ids[0]) for ids in met[:9]]
    assert [text.split()[1] for text in firsts] == [*WORDS[::-2][:8], WORDS[-1]]  # a second epoch begins like the first

    class Killed(Exception):
        pass

    def kill(self, ids):
        if len(met) == 8 + 12:
            raise Killed
        return met.append(ids) or plain(self, ids)

    met[:] = met[:12]
    monkeypatch.setattr(torch.nn.Embedding, "forward", kill)
    with pytest.raises(Killed):
        run(config, inputs, Context.at(tmp_path / "killed", seed=3))
    monkeypatch.setattr(torch.nn.Embedding, "forward", plain)
    resumed = run(config, inputs, Context.at(tmp_path / "killed", seed=3))
    assert resumed["train_loss"] == whole["train_loss"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all((one[name] == other[name]).all() for name in other)


def test_a_run_that_ends_before_the_last_rows_says_so(tiny_folder, tmp_path, capsys):
    write_rows(COWS, tmp_path / "rows.jsonl")
    settings = {"model": {"path": "m"}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 2, "steps": 2}
    config = SFTConfig.model_validate(settings | {"order": {"by": "length"}})
    run(config, {"model": Artifact("model", "d", tiny_folder)}, Context.at(tmp_path / "out"))
    assert "2 steps end before the last 2 of 6 ordered rows" in capsys.readouterr().out


def test_the_summary_tells_what_a_mixture_gave(tiny_folder, tmp_path):
    for name, rows in FILES.items():
        write_rows(rows, tmp_path / name)
    data = json.loads(json.dumps(mixed()).replace("DIR", str(tmp_path)))
    for packing in (False, True):
        settings = {"model": {"path": "m"}, "data": data, "batch_size": 8, "epochs": 1, "packing": packing}
        config = SFTConfig.model_validate(settings)
        summary = run(config, {"model": Artifact("model", "d", tiny_folder)}, Context.at(tmp_path / f"{packing}"))
        assert summary["mixture"] == {"cows": {"rows": 6, "tokens": 12}, "dogs": {"rows": 2, "tokens": 4}}
        assert summary["train_tokens"] == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": {"by": "length"}, "group_by_length": True}, "group_by_length shuffles what order has sorted"),
        ({"order": {"by": "length"}, "packing": True}, "packing puts rows in an order of its own"),
        ({"order": {"by": "column"}}, "`by: column` and column go together"),
        ({"order": {"by": "length", "column": "n"}}, "`by: column` and column go together"),
        ({"order": {"by": "loss"}}, "`by: loss` and model go together"),
        ({"order": {"by": "length", "model": {"path": "m"}}}, "`by: loss` and model go together"),
        ({"order": {"by": "hardness"}}, "length"),
    ],
)
def test_orders_that_contradict_themselves(settings, message):
    with pytest.raises(ValidationError, match=message):
        SFTConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "steps": 1} | settings)
