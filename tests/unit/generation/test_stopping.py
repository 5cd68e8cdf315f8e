import json

import pytest

from alignment.generation.stopping import cut_at_eos


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ([5, 6, 2, 7, 2], ([5, 6, 2], True)),  # the first EOS counts, and belongs to the response
        ([2], ([2], True)),
        ([5, 9, 7], ([5, 9], True)),  # any of several
        ([5, 6, 7], ([5, 6, 7], False)),
    ],
)
def test_a_response_ends_with_its_first_eos(response, expected):
    assert cut_at_eos(response, (2, 9)) == expected


def test_a_model_with_a_list_of_eos_ids_stops_at_each_and_at_the_tokenizers(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from alignment.generation.stopping import eos_ids

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<end>": 3}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 0}))
    assert eos_ids(tmp_path) == (0, 3)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert eos_ids(tmp_path) == (1, 2, 3)
