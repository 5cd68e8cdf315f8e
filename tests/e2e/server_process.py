"""One of several processes that share a server, started by torchrun: `server_process.py MODEL URL ADAPTER OUT`. Samples its
share of the prompts from the model itself, then with the adapter."""

import json
import sys
from contextlib import closing
from pathlib import Path

from engine_helpers import SIZES
from ppo_models import prompts_of
from torch import distributed

from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine


def main(folder, url, adapter, out):
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    first = 5 * rank
    prompts = prompts_of(8)[first : first + 5]
    sampling = Sampling(max_new_tokens=16, temperature=0.7, seed=1, first=first)
    answers = []
    with closing(open_engine("vllm_server", folder, url=url, adapter_rank=8, **SIZES)) as engine:
        answers.append([(c.response_ids, c.logprobs) for c in engine.generate(prompts, sampling)])
        distributed.barrier()
        for _ in range(2):  # the second time the adapter is the one that is there
            engine.load_adapter(Path(adapter))
            distributed.barrier()
            answers.append([(c.response_ids, c.logprobs) for c in engine.generate(prompts, sampling)])
            distributed.barrier()
    Path(out, f"{rank}.json").write_text(json.dumps(answers))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
