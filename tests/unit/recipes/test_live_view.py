"""What a person sees of running cells, rendered to text: progress and time left, numbers, speeds, the last warning."""

import io
import time

from rich.console import Console

from alignment.core.config import ModelRef, PretrainedConfig
from alignment.core.context import Context
from alignment.core.store import Store
from recipes import live
from recipes.estimate import Estimate
from recipes.live import LiveDisplay, cells_view
from recipes.plan import Cell
from recipes.runner import Outcome, Running


def rendered(states, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(cells_view(states, width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def ppo_state(**changed):
    speeds = {"generate_tps": 1234.0, "score_tps": 15_234.0, "optimise_tps": 912.0}
    return {
        "phase": "ppo",
        "phase_started": time.time() - 20,
        "phase_first": 20,
        "done": 40,
        "total": 60,
        "live": {"reward": 1.0712, "kl": 1.466, "length": 19.25, **speeds, "gold": 0.8531},
        "note": None,
    } | changed


def test_a_ppo_cell_shows_step_time_left_numbers_and_speeds_in_80_columns():
    head, numbers, speeds = rendered([("ppo-seed0", ppo_state())], 80)
    assert head.startswith("ppo-seed0  ppo  ━━━━") and head.endswith("  40/60, 20 s left")
    assert numbers == "  reward 1.07  KL 1.47  length 19.2  gold 0.853"
    assert speeds == "  tokens/s: generate 1.2k  score 15k  optimise 912"


def test_the_last_warning_stands_below_its_cell():
    lines = rendered([("ppo-seed0", ppo_state(note="KL is [running] away")), ("sft-seed0", {})], 80)
    assert lines[3] == "  KL is [running] away" and lines[4].startswith("sft-seed0") and lines[4].endswith("starting")


def test_nothing_is_cut_or_wider_than_the_terminal():
    long = ppo_state(done=12_345, total=99_999, phase="validation", note="word " * 60)
    states = [("evaluate-sft_more-seed0", long), ("ppo-seed0", ppo_state()), ("reward-seed1", {})]
    for width in (80, 120, 200):
        lines = rendered(states, width)
        assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
        bars = {line.index("━") for line in lines if "━" in line}
        assert len(bars) == 1  # they stand below each other


def test_the_time_left_of_a_resumed_cell_follows_from_its_own_pace():
    state = ppo_state(done=51, phase_first=50, phase_started=time.time() - 5)
    assert rendered([("ppo", state)], 80)[0].endswith("51/60, 45 s left")  # 5 s a step, not 5 s for 51
    first = ppo_state(done=50, phase_first=50, phase_started=time.time())
    assert rendered([("ppo", first)], 80)[0].endswith("50/60")


def test_where_there_is_no_terminal_a_warning_is_a_line_told_once(tmp_path, monkeypatch):
    config = PretrainedConfig(model=ModelRef(path="somewhere"))
    cell = Cell("ppo", config, 0, 0, {}, "0" * 64, {})
    context = Context.at(tmp_path)
    running = [Running(cell, None, None, tmp_path, time.time(), [])]
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    display = LiveDisplay(console, Estimate(Store(tmp_path / "store"), [cell], 1, None), 1)

    def told():
        context.progress.update(1, 1, "ppo", kl=20.0)  # a whole phase: written at once
        display.refresh(running, Outcome(), [])
        lines = console.file.getvalue().splitlines()
        return [line.split("warning ")[1] for line in lines if "warning" in line]

    assert told() == []
    context.progress.note("KL is running away")
    assert told() == told() == ["ppo-seed0: KL is running away"]
    context.progress.note("entropy has collapsed")
    assert told() == ["ppo-seed0: KL is running away", "ppo-seed0: entropy has collapsed"]


def test_a_note_outlives_the_phase_in_which_it_was_made(tmp_path):
    context = Context.at(tmp_path)
    context.progress.note("look here")
    context.progress.update(1, 1, "one")
    context.progress.update(0, 0, "two")
    assert '"note": "look here"' in (tmp_path / "progress.json").read_text()


def test_numbers_are_short():
    shown = [live._short(number) for number in (0.4, 73, 999.4, 999.6, 1234, 9940, 9960, 12_345, 999_600, 3.4e6, 2.5e7)]
    assert shown == ["0", "73", "999", "1.0k", "1.2k", "9.9k", "10k", "12k", "1.0M", "3.4M", "25M"]
