"""Win rates on the page, in results.json and in the terminal."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from synthetic_report import ATTACK, write
from win_cells import cell

from eval.report import build_report
from eval.terminal import print_results


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A report with two win rates of three seeds: a scoring judge, and one that is shown both answers and likes the first."""
    folder = tmp_path_factory.mktemp("wins")
    rng = np.random.default_rng(0)
    scoring, shown = [], []
    for seed in range(3):
        lengths = [(int(a), int(a + b)) for a, b in zip(rng.integers(20, 60, 80), rng.normal(6, 12, 80), strict=True)]
        wins = [float(rng.random() < 0.55 + 0.01 * (new - old)) for old, new in lengths]
        lengths[:2] = [("short", f"{ATTACK} and longer"), ("a good answer", "no")]
        wins[:2] = [1, 0]
        scoring.append(cell(folder, wins, seed, lengths=lengths, judge="reward model reward"))
        orders = [("reference", "new") if rng.random() < 0.2 else ("new", "new") for _ in wins]
        halves = [0.5 if pair[0] == "reference" else 1.0 for pair in orders]
        shown.append(
            cell(folder, halves, seed, lengths=lengths, verdicts=orders, judge="llama at http://127.0.0.1:8000/v1")
        )
    report = write(folder / "cells", items=40, win_rates=[scoring, shown])
    return build_report(report, folder / "report"), folder / "report"


def test_the_numbers_stand_in_results_and_on_the_page(built):
    _, folder = built
    reward, chat = json.loads((folder / "results.json").read_text())["win_rates"]
    page = (folder / "report.html").read_text()
    assert (reward["n"], reward["n_seeds"], reward["ci_method"]) == (80, 3, "crossed")
    assert (
        f"{100 * reward['win_rate']:.1f} %" in page and f"{100 * reward['length_controlled']['win_rate']:.1f} %" in page
    )
    assert chat["order"]["contradicted"] > 0 and "position bias: the judge contradicts itself" in page
    assert "Whose answers are preferred" in page


def test_examples_are_shown_and_what_a_model_wrote_stays_text(built):
    page = (built[1] / "report.html").read_text()
    assert "&lt;script&gt;window.attacked" in page and ATTACK not in page
    assert "ppo preferred" in page and "sft preferred" in page and "shown after sft" in page


def test_the_terminal_says_it_in_one_line(built):
    out = Console(file=io.StringIO(), width=400)
    print_results(built[0], out)
    [line] = [line for line in out.file.getvalue().splitlines() if "reward model reward" in line]  # type: ignore[attr-defined]
    assert line.startswith("ppo wins ") and "at equal length" in line and "80 prompts, 3 seeds" in line


def test_a_report_without_win_rates_has_no_such_section(tmp_path):
    build_report(write(tmp_path / "cells", items=40), tmp_path / "report")
    assert "Whose answers are preferred" not in (tmp_path / "report" / "report.html").read_text()
