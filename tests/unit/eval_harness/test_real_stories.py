"""Bits per byte of a real model whose tokenizer adds BOS by itself and whose BOS is its EOS: where a doubled BOS would show."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef, ModelRef
from alignment.core.context import Context
from alignment.models.load import load_causal_lm, load_tokenizer
from eval import stage
from eval.config import EvaluateConfig, TextTask

ASSETS = os.environ.get("ALIGN_ASSETS")


@pytest.mark.skipif(not ASSETS, reason="needs the stories model: set ALIGN_ASSETS")
@torch.no_grad()
def test_bits_per_byte_of_stories(tmp_path):
    folder = Path(ASSETS, "models", "stories260K")
    texts = Path(ASSETS, "data", "corpora", "tinystories_slice.jsonl")
    task = TextTask(metric="bits_per_byte", data=DataRef(path=str(texts), rows=40))
    config = EvaluateConfig(
        model=ModelRef(path=str(folder)), tasks={"stories": task}, retained=["stories"], batch_size=16
    )
    summary = stage.run(config, {"model": Artifact("model", "x", folder)}, Context.at(tmp_path))

    model, tokenizer = load_causal_lm(folder).eval(), load_tokenizer(folder)
    nats = size = 0
    for line in texts.read_text().splitlines()[:40]:
        text = json.loads(line)["text"]
        ids = tokenizer.encode(text)
        assert ids[:2] != [1, 1] and ids[0] == 1
        done = 1
        while done < len(ids):  # windows of 513 tokens that score each token once, the last one full
            end = min(done + 512, len(ids))
            window = ids[max(0, end - 513) : end]
            logprobs = model(torch.tensor([window[:-1]])).logits[0].log_softmax(-1)
            scored = logprobs.gather(1, torch.tensor(window[1:])[:, None])[-(end - done) :]
            nats, done = nats - scored.sum().item(), end
        size += len(text.encode())
    assert summary["stories"] == pytest.approx(nats / math.log(2) / size, abs=1e-5)
