import pytest

from alignment.core.errors import DataError, ModelError
from alignment.data.chat import prompt_ids
from alignment.models.encoding import Encoded, encode_answer, encode_row, fit
from alignment.models.load import load_tokenizer

USER = [{"role": "user", "content": "why the cow"}]
ANSWER = [{"role": "assistant", "content": "yes"}]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder)


def shown(tokenizer, encoded: Encoded) -> str:
    """Tokens in order; those that count in brackets."""
    tokens = tokenizer.convert_ids_to_tokens(encoded.ids)
    return " ".join(f"[{token}]" if counts else token for token, counts in zip(tokens, encoded.mask, strict=True))


def test_only_the_answer_and_its_end_count(tokenizer):
    plain = encode_row(tokenizer, {"prompt": "the cow", "completion": " is red"})
    assert shown(tokenizer, plain) == "the cow [is] [red] [<|end|>]"
    assert plain.counted == 3
    chat = encode_row(tokenizer, {"prompt": USER, "completion": ANSWER})
    assert shown(tokenizer, chat) == "<|user|> why the cow <|end|> <|assistant|> [yes] [<|end|>]"
    assert chat == encode_answer(tokenizer, USER, "yes")
    assert chat.ids[: chat.mask.index(True)] == prompt_ids(tokenizer, USER)


def test_text_counts_from_its_second_token_on_and_ends(tokenizer):
    row = encode_row(tokenizer, {"text": "the cow runs"})
    assert shown(tokenizer, row) == "[the] [cow] [runs] [<|end|>]"
    assert row.counted == 3  # nothing precedes the first token


def test_an_answer_that_was_cut_off_has_no_end(tokenizer):
    cut = encode_row(tokenizer, {"prompt": "the cow", "completion": " is", "finished": False})
    assert shown(tokenizer, cut) == "the cow [is]"
    assert shown(tokenizer, encode_answer(tokenizer, USER, "yes", append_eos=False)).endswith("<|assistant|> [yes]")


def test_one_eos_even_if_the_answer_brings_its_own_or_the_template_adds_more(tokenizer):
    given = encode_row(tokenizer, {"prompt": "the cow", "completion": " is <|end|>"})
    assert shown(tokenizer, given) == "the cow [is] [<|end|>]"
    chatty = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    chatty.chat_template = tokenizer.chat_template.replace("' <|end|> '", "' <|end|> and '")
    assert shown(chatty, encode_row(chatty, {"prompt": USER, "completion": ANSWER})).endswith("[yes] [<|end|>]")


def test_every_assistant_turn_of_messages_counts(tokenizer):
    messages = [*USER, *ANSWER, {"role": "user", "content": "who"}, {"role": "assistant", "content": "no dog"}]
    assert shown(tokenizer, encode_row(tokenizer, {"messages": messages})) == (
        "<|user|> why the cow <|end|> <|assistant|> [yes] [<|end|>] "
        "<|user|> who <|end|> <|assistant|> [no] [dog] [<|end|>]"
    )


def test_a_prompt_keeps_the_tokens_that_generation_will_see():
    """Where prompt and answer would merge into one token (`ab`), the two are tokenised apart."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<e>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    merging = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")
    assert merging("cab")["input_ids"] == [4, 3]
    encoded = encode_answer(merging, "ca", "b")
    assert (encoded.ids, encoded.mask) == ([4, 1, 2, 0], [False, False, True, True])


def test_a_template_that_rewrites_the_past_is_refused(tokenizer):
    fickle = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    fickle.chat_template = "{{ 'yes ' if messages | length > 1 else 'no ' }}" + tokenizer.chat_template
    with pytest.raises(ModelError, match="renders the beginning"):
        encode_row(fickle, {"prompt": USER, "completion": ANSWER})


def test_messages_need_an_answer(tokenizer):
    with pytest.raises(DataError, match="without an assistant turn"):
        encode_row(tokenizer, {"messages": USER})


def test_long_rows_are_listed_or_cut():
    rows = [Encoded([1] * n, [False, *[True] * (n - 1)]) for n in (3, 9, 4, 8)]
    with pytest.raises(DataError, match=r"rows 2, 4: longer than 5 tokens \(the longest has 9\)"):
        fit(rows, 5, "error", "data")
    assert [len(row.ids) for row in fit(rows, 5, "truncate", "data")] == [3, 5, 4, 5]
    prompts_only = [Encoded([1] * 9, [False] * 8 + [True])]
    assert fit([*rows, *prompts_only], 5, "truncate", "data") == fit(rows, 5, "truncate", "data")
    with pytest.raises(DataError, match="no token to learn"):
        fit(prompts_only, 5, "truncate", "data")
