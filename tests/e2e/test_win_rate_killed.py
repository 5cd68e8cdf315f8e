"""A win rate that is killed while its judge is asked goes on where it was: nothing is asked or paid for twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from chat_server import prefers_the_longer, serving

from alignment.core.config import DataRef, ModelRef
from eval.chat_judge import AT_ONCE
from eval.win_config import Judge, WinRateConfig
from eval.win_rate_files import PAIRS

REPOSITORY = Path(__file__).parents[2]
CHILD = """
import sys
from pathlib import Path
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from eval import win_rate
from eval.win_config import WinRateConfig
config, model, work = sys.argv[1:]
inputs = {role: Artifact("model", role, Path(model)) for role in ("reference", "model")}
win_rate.run(WinRateConfig.model_validate_json(config), inputs, Context.at(Path(work)))
"""


def child(config: WinRateConfig, model: Path, work: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, config.model_dump_json(), str(model), str(work)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"})


def test_a_killed_win_rate_asks_only_for_what_is_missing(tiny_folder, tmp_path):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "big", "small"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{a} {b}"}) + "\n" for a in words for b in words[:3]))

    def slowly(text):
        time.sleep(0.1)
        return prefers_the_longer(text)

    with serving(slowly) as server:
        judge = Judge(url=server.url, model="judge")
        references = {"reference": ModelRef(stage="a"), "model": ModelRef(stage="b")}
        config = WinRateConfig(**references, prompts=DataRef(path=str(prompts)), judge=judge, max_new_tokens=6)
        first = child(config, tiny_folder, tmp_path / "killed")
        try:
            while len(server.requests) < 20:
                assert first.poll() is None, "the child ended before it could be killed"
                time.sleep(0.02)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        assert not (tmp_path / "killed" / PAIRS).exists()
        assert child(config, tiny_folder, tmp_path / "killed").wait() == 0
        asked = len(server.requests)
        assert child(config, tiny_folder, tmp_path / "whole").wait() == 0
        needed = len(server.requests) - asked
    assert needed <= asked <= needed + AT_ONCE
    killed, whole = (pq.read_table(tmp_path / name / PAIRS) for name in ("killed", "whole"))
    assert killed.equals(whole) and needed > 40
