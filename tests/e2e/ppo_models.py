"""Models of a few thousand weights in Hugging Face format, for tests of engines and of PPO."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)
EOS = 2


def save_tiny_model(folder, tied=True, eos_bias=4.0, bos=None):
    """A Llama with heads of size 32 (the smallest that vLLM takes on CPU) and words w3 .. w39. eos_bias: how many times the
    EOS row of the head is enlarged, so that some answers end before the limit. bos: token put before every text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=bos,
        eos_token_id=EOS,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS] *= eos_bias
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<unk>": 1, "<end>": EOS} | {f"w{number}": number for number in range(3, 40)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    return folder


def prompts_of(count, seed=0):
    """Token ids of prompts of 1 to 8 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [torch.randint(3, 40, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def reference_logprobs(model, prompt, response, temperature):
    """log p of each response token, by one plain forward pass of the sequence alone."""
    logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist()
