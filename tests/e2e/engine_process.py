"""One of several processes that roll out together, started by torchrun: `engine_process.py MODEL OUT`. Opens an engine
twice, samples its share of the prompts, and still has its process group in the end."""

import json
import sys
from contextlib import closing
from pathlib import Path

import torch
from engine_helpers import SIZES, changed, load
from ppo_models import prompts_of
from torch import distributed

from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine

FIRST = {0: 0, 1: 5}  # shares of unequal size


def main(folder, out):
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    prompts = prompts_of(8)[FIRST[rank] : FIRST.get(rank + 1)]
    for seed in (1, 2):
        with closing(open_engine("vllm", folder, **SIZES)) as engine:
            engine.load_weights(changed(load(folder), seed).named_parameters())
            if rank == 0:  # a process may sample when the other does not
                engine.generate(prompts, Sampling(max_new_tokens=16, seed=0))
            sampling = Sampling(max_new_tokens=16, temperature=0.7, seed=seed, first=FIRST[rank])
            answers = [(c.response_ids, c.logprobs) for c in engine.generate(prompts, sampling)]
        Path(out, f"{seed}-{rank}.json").write_text(json.dumps(answers))
    ones = torch.ones(1)
    distributed.all_reduce(ones)
    assert ones.item() == 2
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
