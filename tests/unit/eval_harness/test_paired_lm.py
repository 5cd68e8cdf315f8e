"""What PairedLM does otherwise than lm-eval's HFLM, each against a computation by hand."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from alignment.data.chat import prompt_ids
from alignment.models.load import load_causal_lm, load_tokenizer
from eval import harness
from eval.harness import PairedLM


def requests(kind, *arguments):
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


@torch.no_grad()
def log_likelihood(model, ids, scored):
    """Sum of log p of the last `scored` tokens of ids."""
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logprobs[t - 1, ids[t]].item() for t in range(len(ids) - scored, len(ids)))


def test_a_text_is_scored_given_one_bos_and_in_windows(paired_lm):
    short, long = "w1 w2 w3", " ".join(f"w{i % 40}" for i in range(70))
    (first, second) = paired_lm.loglikelihood_rolling(requests("loglikelihood_rolling", (short,), (long,)))
    ids = [7 + i % 40 for i in range(70)]  # w0 is id 7, after the special tokens
    model = paired_lm.model
    assert first == pytest.approx(log_likelihood(model, [1, 8, 9, 10], 3), abs=1e-4)
    windows = [([1, *ids[:32]], 32), (ids[31:64], 32), (ids[37:70], 6)]  # 33 tokens each; the last reaches back
    assert second == pytest.approx(sum(log_likelihood(model, *window) for window in windows), abs=1e-4)


def test_an_answer_longer_than_the_context_is_scored_in_parts(paired_lm):
    """lm-eval fails on it. Each half context of 16 tokens is scored once, after all that fits before it."""
    answer = [7 + i % 40 for i in range(40)]
    text = "".join(f" w{i % 40}" for i in range(40))
    pairs = [("w1 w2", " w3"), ("w1 w2", text), ("w1", " w2")]
    (_, _), (found, greedy), (last, _) = paired_lm.loglikelihood(requests("loglikelihood", *pairs))
    ids = [1, 8, 9, *answer]
    windows = [(ids[:19], 16), (ids[2:35], 16), (ids[10:43], 8)]  # 33 tokens at most: the last predicts nothing
    model = paired_lm.model
    assert found == pytest.approx(sum(log_likelihood(model, *window) for window in windows), abs=1e-4)
    assert not greedy and last == pytest.approx(log_likelihood(model, [1, 8, 9], 1), abs=1e-4)
    assert paired_lm.truncated == {"w1 w2"}


def test_hflm_scores_the_bos_too(tiny, paired_lm):
    """The reason for our own rolling log-likelihood; if this fails, lm-eval has changed and ours may go."""
    hflm = HFLM(pretrained=load_causal_lm(tiny, dropout=False), tokenizer=load_tokenizer(tiny), batch_size=1)
    (theirs,) = hflm.loglikelihood_rolling(requests("loglikelihood_rolling", ("w1 w2 w3",)))
    assert theirs == pytest.approx(log_likelihood(paired_lm.model, [1, 1, 8, 9, 10], 4), abs=1e-4)


def test_bos_is_decided_for_each_prompt_of_a_batch(paired_lm):
    ids, mask = paired_lm.tok_batch_encode(["<s> w1 w2", "w3 w4 w5"])
    assert ids.tolist() == [[0, 1, 8, 9], [1, 10, 11, 12]]
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


def test_a_chat_prompt_has_the_tokens_that_training_gave_it(paired_lm):
    messages = [{"role": "user", "content": "w1 w2"}]
    paired_lm.start("task", chat=True)
    ids, _ = paired_lm.tok_batch_encode([paired_lm.apply_chat_template(messages)])
    assert ids[0].tolist() == prompt_ids(paired_lm.tokenizer, messages) == [4, 8, 9, 3, 5]


def generate(lm, prompts, **options):
    options = {"until": [], "max_gen_toks": 10} | options
    return lm.generate_until(requests("generate_until", *((prompt, dict(options)) for prompt in prompts)))


def test_sampling_ignores_what_ran_before_and_leaves_the_random_state(paired_lm):
    prompts, options = [f"w{i}" for i in range(6)], {"do_sample": True, "temperature": 1.0, "top_k": 0}
    answers = []
    for other in (1, 2):
        torch.manual_seed(other)
        expected = torch.random.get_rng_state()
        paired_lm.start("other", chat=False)
        generate(paired_lm, prompts[:other], **options)
        paired_lm.start("task", chat=False)
        answers.append(generate(paired_lm, prompts, **options))
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert answers[0] == answers[1]
    again = PairedLM(paired_lm.model, paired_lm.tokenizer, batch_size=4, sampling_seed=1)
    again.start("task", chat=False)
    assert generate(again, prompts, **options) != answers[0]


def test_every_named_end_token_stops_an_answer(paired_lm):
    assert paired_lm.stop_ids == [2, 3]  # </s> of the tokenizer, <|end|> of the generation config
    assert paired_lm.model.generation_config.eos_token_id == [2, 3]


def test_decoding_settings_of_a_checkpoint_are_dropped(tiny):
    answers = []
    for penalty in (None, 5.0):
        model = load_causal_lm(tiny, dropout=False)
        model.generation_config.repetition_penalty = penalty
        lm = PairedLM(model, load_tokenizer(tiny), batch_size=4, sampling_seed=0)
        answers.append(generate(lm, ["w1 w2", "w7"], do_sample=False))
    assert answers[0] == answers[1]


def test_prompts_cut_to_fit_are_remembered(paired_lm):
    long = " ".join(["w1"] * 30)
    generate(paired_lm, [long, "w2"])
    assert paired_lm.truncated == {long}  # 31 tokens with BOS, 22 fit beside 10 new ones
    paired_lm.start("next", chat=False)
    assert paired_lm.truncated == set()
    fits, cut = " ".join(["w1"] * 31), " ".join(["w1"] * 32)  # BOS + 31 + the answer's token = 33 = context + 1
    paired_lm.loglikelihood(requests("loglikelihood", (fits, " w3"), (cut, " w3")))
    assert paired_lm.truncated == {cut}


def test_batches_shrink_with_the_size_of_their_logits(paired_lm, monkeypatch):
    rows = []
    call = type(paired_lm)._model_call
    monkeypatch.setattr(type(paired_lm), "_model_call", lambda self, x, **k: rows.append(len(x)) or call(self, x, **k))
    pairs = [(f"w{i} w1", " w2") for i in range(8)]
    whole = paired_lm.loglikelihood(requests("loglikelihood", *pairs))
    assert rows == [4, 4]
    rows.clear()
    monkeypatch.setattr(harness, "_LOGITS_AT_ONCE", 2 * 4 * paired_lm.model.config.vocab_size)  # BOS, two words, answer
    parts = paired_lm.loglikelihood(requests("loglikelihood", *pairs))
    assert rows == [2, 2, 2, 2]
    assert [ll for ll, _ in whole] == pytest.approx([ll for ll, _ in parts], abs=1e-5)
