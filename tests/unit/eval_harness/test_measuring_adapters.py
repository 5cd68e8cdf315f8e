"""Measuring a model with an adapter that cannot be merged: the numbers of each row by itself, whatever lm-eval pads."""

import pytest
import torch
from lm_eval.api.instance import Instance

from alignment.models.config import PeftConfig
from alignment.models.load import load_causal_lm, load_to_read, load_tokenizer, save_model
from alignment.models.virtual_tokens import virtual_tokens
from eval.divergence import Reader, Span, sequence_kl
from eval.harness import PairedLM

METHODS = [
    {"method": "prefix", "virtual_tokens": 5},
    {"method": "prompt", "virtual_tokens": 5},
    {"method": "ptuning", "virtual_tokens": 5},
    {"method": "bottleneck", "width": 8},
]


@pytest.fixture(params=METHODS, ids=lambda peft: peft["method"])
def folder(request, tiny, tmp_path):
    model = load_causal_lm(tiny, peft=PeftConfig.model_validate(request.param), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    save_model(model, load_tokenizer(tiny), tmp_path)
    return tmp_path


@torch.no_grad()
def logprobs(model, ids):
    return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def test_likelihoods_and_answers_are_those_of_each_row_alone(folder):
    model = load_to_read(folder)
    lm = PairedLM(load_to_read(folder), load_tokenizer(folder), batch_size=4, sampling_seed=0)
    lm.start("task", chat=False)
    pairs = [("w1 w2 w3", " red"), ("w4", " blue w5"), ("w1 w2 w3 w4 w5 w6", " green")]
    for (before, after), (found, _) in zip(pairs, lm.loglikelihood(requests("loglikelihood", *pairs)), strict=True):
        context = lm.tok_encode(before)
        ids = context + lm.tok_encode(after, add_special_tokens=False)
        numbers = logprobs(model, ids)
        expected = sum(numbers[place - 1, ids[place]].item() for place in range(len(context), len(ids)))
        assert found == pytest.approx(expected, abs=1e-4)

    prompts = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]
    asked = requests("generate_until", *((prompt, {"until": [], "max_gen_toks": 6}) for prompt in prompts))
    for prompt, answer in zip(prompts, lm.generate_until(asked), strict=True):
        ids = lm.tok_encode(prompt)
        start = len(ids)
        while len(ids) < start + 6 and ids[-1] not in lm.stop_ids:
            ids.append(int(logprobs(model, ids)[-1].argmax()))
        assert answer.split() == lm.tokenizer.decode(ids[start:], skip_special_tokens=True).split()


def test_trained_positions_come_out_of_the_context_but_are_no_other_way_of_measuring(folder):
    lm = PairedLM(load_to_read(folder), load_tokenizer(folder), batch_size=4, sampling_seed=0)
    assert lm.context_length == 32
    assert lm.max_length == (27 if virtual_tokens(lm.model) else 32)


def test_divergence_from_the_base_is_brute_force(folder, tiny):
    base, new = load_to_read(tiny), load_to_read(folder)
    spans = [Span([1, 9, 8, 30, 2], 3), Span([1, 12, 13], 1)]
    expected = []
    for span in spans:
        p, q = (logprobs(model, span.ids)[span.first - 1 : -1] for model in (base, new))
        expected.append((p.exp() * (p - q)).sum().item())
    assert sequence_kl(spans, Reader(base), Reader(new), 8) == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 1e-3
