import pytest
import torch

from alignment.core.errors import ModelError
from alignment.models.load import load_tokenizer
from alignment.models.reward_model import load_reward_model, masked_mean, new_reward_model, pooling_of, separate_pad


def test_masked_mean_by_hand():
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [100.0, 100.0]], [[2.0, 4.0], [6.0, 8.0], [7.0, 9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert masked_mean(hidden, mask).tolist() == [[2.0, 15.0], [7.0, 9.0]]
    assert masked_mean(hidden, torch.zeros(2, 3)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_saved_and_loaded_it_scores_the_same_with_any_padding(tiny_folder, tmp_path, pooling):
    model = new_reward_model(tiny_folder, pooling).eval()
    model.save_pretrained(tmp_path)
    loaded = load_reward_model(tmp_path)
    assert pooling_of(loaded) == pooling and not loaded.training
    ids = torch.tensor([[5, 6, 9, 1]])
    padded, mask = torch.tensor([[5, 6, 9, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        expected = model(ids).logits
        assert expected.shape == (1, 1)
        torch.testing.assert_close(loaded(ids).logits, expected)
        torch.testing.assert_close(loaded(padded, attention_mask=mask).logits, expected)


def test_pooled_states_by_an_independent_path(tiny_folder):
    ids = torch.tensor([[5, 6, 9, 1]])
    for pooling, picked in (("last", [3]), ("mean", [2, 3])):
        model = new_reward_model(tiny_folder, pooling).eval()
        with torch.no_grad():
            hidden = model.base_model(ids).last_hidden_state[0]
            expected = (hidden[picked].mean(0) * model.score.weight[0]).sum()
            extra = {"response_mask": torch.tensor([[0, 0, 1, 1]]).bool()} if pooling == "mean" else {}
            torch.testing.assert_close(model(ids, **extra).logits[0, 0], expected)


def test_heads_have_deviation_1_over_root_d_plus_1_and_follow_their_seed(tiny_folder):
    drawn = torch.cat([new_reward_model(tiny_folder, "last", seed=s).score.weight.detach() for s in range(40)])
    assert drawn.std().item() == pytest.approx(65**-0.5, rel=0.05)  # 2,560 draws
    assert torch.equal(new_reward_model(tiny_folder, "mean", seed=3).score.weight, drawn[3:4])
    assert new_reward_model(tiny_folder, "mean").score.bias is None


def test_a_language_model_is_no_reward_model(tiny_folder):
    with pytest.raises(ModelError, match="is no reward model"):
        load_reward_model(tiny_folder)


def test_with_eos_as_pad_the_last_token_head_would_not_read_the_end(tiny_folder):
    """Why `separate_pad` exists: two answers that differ only in their end must be able to differ in reward."""
    tokenizer = load_tokenizer(tiny_folder)
    model = new_reward_model(tiny_folder, "last").eval()
    ended, cut = torch.tensor([[5, 6, 9, 1]]), torch.tensor([[5, 6, 9]])
    model.config.pad_token_id = tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token
    with torch.no_grad():
        assert torch.allclose(model(ended).logits, model(cut).logits)
        separate_pad(model, tokenizer)
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        assert model.config.pad_token_id == tokenizer.pad_token_id
        assert not torch.allclose(model(ended).logits, model(cut).logits)


def test_a_vocabulary_without_a_free_special_token_grows_by_one(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    model, tokenizer = new_reward_model(tmp_path, "last"), load_tokenizer(tmp_path)
    separate_pad(model, tokenizer)
    assert (tokenizer.pad_token_id, model.config.pad_token_id) == (3, 3)
    assert model.get_input_embeddings().num_embeddings == 4
