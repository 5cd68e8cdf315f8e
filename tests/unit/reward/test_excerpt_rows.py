import json

import pytest
from pydantic import ValidationError

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import write_rows
from alignment.data.stream import split_of
from alignment.models.load import load_tokenizer
from reward.config import ExcerptsConfig
from reward.excerpts import run

TEXTS = [f"the cow is {a} and the dog was {b} why" for a in ("red", "big", "good") for b in ("blue", "small", "bad")]


def cut(tiny_folder, tmp_path, texts=TEXTS, **settings):
    write_rows([{"text": text} for text in texts], tmp_path / "texts.jsonl")
    config = ExcerptsConfig.model_validate(
        {
            "model": {"path": str(tiny_folder)},
            "data": {"path": str(tmp_path / "texts.jsonl")},
            "opening_tokens": 2,
            "continuation_tokens": 3,
        }
        | settings
    )
    summary = run(config, {"model": Artifact("model", "d", tiny_folder)}, Context.at(tmp_path / "out"))
    read = {
        name: (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines() for name in ("train", "validation", "test")
    }
    return summary, {name: [json.loads(line) for line in lines] for name, lines in read.items()}


def test_first_windows_by_hand_and_split_by_text(tiny_folder, tmp_path):
    summary, splits = cut(tiny_folder, tmp_path)
    number = 1 + TEXTS.index(next(text for text in TEXTS if "is good" in text and split_of(text) == "train"))
    row = {"prompt": "the cow", "completion": " is good and", "finished": False, "source": f"text {number}"}
    assert row in splits["train"]
    expected = {name: sum(split_of(text) == name for text in TEXTS) for name in splits}
    assert {name: len(rows) for name, rows in splits.items()} == expected
    assert {name: summary[name] for name in expected} == expected and summary["texts"] == 9


def test_all_windows_follow_each_other(tiny_folder, tmp_path):
    text = next(text for text in TEXTS if split_of(text) == "train")
    summary, splits = cut(tiny_folder, tmp_path, texts=[text, "the cow"], windows="all")
    words = text.split()
    assert [row["prompt"] + row["completion"] for row in splits["train"]] == [" ".join(words[:5]), " ".join(words[5:])]
    assert summary["dropped_short"] == 1


def test_gold_and_filter(tiny_folder, tmp_path):
    summary, splits = cut(tiny_folder, tmp_path, gold="vader", keep_above=0.3)
    rows = [row for rows in splits.values() for row in rows]
    assert rows and all(row["gold"] == pytest.approx(0.4404) and "good" in row["completion"] for row in rows)
    assert summary["dropped_below"] == 9 - len(rows) and summary["mean_gold"] == pytest.approx(0.4404)
    with pytest.raises(DataError, match="no training row is left"):
        cut(tiny_folder, tmp_path, gold="vader", keep_above=0.9)
    with pytest.raises(ValidationError, match="keep_above needs gold"):
        ExcerptsConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "keep_above": 0.5})


def test_windows_that_begin_inside_a_word_move_on_or_are_dropped(tmp_path):
    """`cows` is ▁cow, s; a window that begins with s would be read as an unknown word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    pieces = ["<u>", "<e>", "▁the", "▁cow", "s", "▁eat"]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    folder = tmp_path / "pieces"
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>").save_pretrained(folder)
    LlamaConfig().save_pretrained(folder)
    text = "the cows eat the cow"
    assert load_tokenizer(folder)(text)["input_ids"] == [2, 3, 4, 5, 2, 3]

    def windows(opening: int) -> tuple[list[str], int]:
        settings = {"windows": "all", "opening_tokens": opening, "continuation_tokens": 1}
        texts = [f"{text} {'eat ' * n}".strip() for n in range(5)]
        texts = [next(text for text in texts if split_of(text) == "train")]
        summary, splits = cut(folder, tmp_path, texts=texts, **settings)
        return [row["prompt"] + "|" + row["completion"] for row in splits["train"]], summary["dropped_unfaithful"]

    rows, dropped = windows(opening=1)  # [the cow] [s eat] [the cow]: the second has no other place to begin
    assert rows[:2] == ["the| cow", "the| cow"] and dropped == 1
    rows, dropped = windows(opening=2)  # [the cow s] [eat the cow]
    assert rows[:2] == ["the cow|s", "eat the| cow"] and dropped == 0
