"""The benchmark's own arithmetic: what may be compared, what the figures are, and models that end their answers as they should."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.core.errors import SuiteError
from benchmarks.ppo import cases, limit, models, render, results
from benchmarks.ppo.outcome import Outcome, medians, read_outcome

CASE = cases.Case(cases.Workload("t", "t", 8, epochs=2, minibatches=2), "fp32", steps=2, rounds=2)


def outcome(
    seconds: float, *, length: float = 8.0, updates: float = 4, changed: bool = True, mib: float = 100.0
) -> Outcome:
    step = {
        "generate": seconds / 4,
        "score": seconds / 4,
        "optimise": seconds / 2,
        "sync": 0.0,
        "step": seconds,
        "length": length,
    }
    return Outcome([step, step], updates, changed, mib, 2, {})


def test_a_case_is_the_ratio_of_median_steps_and_that_of_every_round():
    found = results.case_results(
        CASE, {"ours": [outcome(1.0, mib=120), outcome(3.0, mib=140)], "peer": [outcome(4.0), outcome(6.0)]}
    )
    assert found["ours"]["step"] == 2.0 and found["peer"]["step"] == 5.0
    assert found["ratio"] == 2.5 and found["ratio_by_round"] == [4.0, 2.0]
    assert found["ours"]["peak_mib"] == 130 and found["ours"]["steps"] == 4


@pytest.mark.parametrize("wrong", [{"updates": 2}, {"changed": False}, {"length": 12.0}])
def test_unequal_work_is_not_compared(wrong):
    with pytest.raises(SuiteError):
        results.case_results(CASE, {"ours": [outcome(1.0)], "peer": [outcome(4.0, **wrong)]})


def test_figures_divide_the_right_numbers():
    def case(ours, peer):
        sides = {"ours": {"step": ours, "peak_mib": 120.0, "optimise": 2.0, "length": 64.0}}
        return sides | {"peer": {"step": peer, "peak_mib": 100.0}, "ratio": peer / ours}

    named = {"lab_fp32": case(1, 2), "lab_bf16": case(0.8, 1.6), "long_tail_fp32": case(2, 7)}
    named |= {"full_fp32": case(4, 5), "full_bf16": case(3, 6)}
    flop = limit.optimise_flop(cases.FULL, 64.0)
    found = results.figures(named, {"fp32": flop, "bf16": 1.0})
    assert found == {
        "ratio_fp32": 2.0, "ratio_bf16": 2.0, "ratio_bf16_over_fp32": 2.5, "ratio_long_tail_fp32": 3.5,
        "ratio_full_fp32": 1.25, "ratio_full_bf16": 2.0, "peak_memory_ratio": 1.2, "matmul_share": 0.5,
    }  # fmt: skip


def test_flop_of_the_optimise_phase_by_hand():
    tiny = cases.Workload(
        "x", "x", 3, epochs=2, minibatches=1, prompt_tokens=2, batch_size=5, hidden_size=64, layers=1, vocabulary=10
    )
    trunk = 4 * 64 * 64 + 3 * 64 * 192  # q, k, v, o; gate, up, down
    assert limit.optimise_flop(tiny, 3.0) == 2 * 6 * (2 * trunk * 5 * 5 + 10 * 64 * 5 * 3)


def test_an_outcome_survives_the_chatter_around_it(capsys):
    print("outcome of something else")
    outcome(1.0).print()
    print("goodbye")
    assert read_outcome(capsys.readouterr().out) == outcome(1.0)
    assert medians([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": 2.0}


@pytest.mark.parametrize("chance", [1 / 20, None])
def test_a_drawn_model_ends_answers_with_the_chance_it_was_given(tmp_path, chance):
    workload = dataclasses.replace(cases.LAB, end_chance=chance, layers=1, hidden_size=64, vocabulary=50)
    rows = models._draw_policy(workload, tmp_path)
    assert len({row["prompt"] for row in rows}) > 1000 and all(len(row["prompt"].split()) == 12 for row in rows)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        end = model(torch.randint(3, 50, (8, 16))).logits.softmax(-1)[..., models.EOS]
    assert end.mean().item() == pytest.approx(chance or 0.0, rel=0.1, abs=1e-6)


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(render.README.read_text())
    render.update_readme(copy)
    assert copy.read_text() == render.README.read_text()


def test_every_figure_of_the_results_follows_from_its_cases():
    found = json.loads(results.RESULTS.read_text())
    again = results.figures(found["cases"], found["limits"])
    assert found["figures"] == pytest.approx(again, abs=2e-3)


def test_links_of_the_readme_lead_somewhere():
    text = render.README.read_text()
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (Path(render.README).parent / path).exists(), path
