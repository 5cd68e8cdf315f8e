"""What a person reads: sentences, numbers, and the table in the terminal."""

import io

from rich.console import Console
from synthetic_report import tiny, write

from eval import words
from eval.compare import compare_all, compare_models
from eval.comparison import Results
from eval.terminal import print_comparison, print_results


def printed(show, *what, width: int = 100) -> str:
    stream = io.StringIO()
    show(*what, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def test_numbers():
    assert words.signed("acc", 0.3312) == "+33.1" and words.signed("acc", -0.004) == "−0.4"
    assert words.signed("acc", 0.0001) == "0.0" and words.signed("acc", -0.0001) == "0.0"
    assert words.signed("bits_per_byte", 0.0312) == "+0.031" and words.value("bits_per_byte", 1.1) == "1.100"
    assert words.value("acc", -0.0004) == "0.0" and words.value("acc", None) == "–"
    assert words.interval("acc", (-0.019, 0.011)) == "−1.9 to 1.1"
    assert words.p_value(0.0004) == "< .001" and words.p_value(0.0412) == ".041" and words.p_value(1.0) == "1.000"


def test_sentences_say_the_verdict(tmp_path):
    many = 200
    base = tiny(tmp_path, "base", {"goal": [0] * many, "facts": [1] * many, "sums": [1] * many})
    kept = tiny(tmp_path, "kept", {"goal": [1] * 150 + [0] * 50, "facts": [1] * 199 + [0], "sums": [1] * many})
    lost = tiny(tmp_path, "lost", {"goal": [0] * many, "facts": [1] * 120 + [0] * 80, "sums": [1] * 150 + [0] * 50})
    roles = {"goal": "target", "facts": "retained", "sums": "retained"}
    text = words.sentence(compare_models([base], [kept], roles=roles), from_base=True)
    assert text.startswith("kept gained 75.0 points on the target over base (68.9 to 81.1) and kept the old skills")
    assert text.endswith("1 seed, 2 tasks): retained.")
    text = words.sentence(compare_models([kept], [lost], roles=roles))
    assert (
        text.startswith("lost lost 75.0 points on the target against kept")
        and "and forgot more of the old skills" in text
    )
    assert text.endswith(": forgot.")
    text = words.sentence(compare_models([lost], [kept], roles=roles))
    assert " and kept more of the old skills" in text
    worse = tiny(tmp_path, "worse", {"goal": [1] * many, "facts": [1] * 120 + [0] * 80, "sums": [1] * many})
    assert "but forgot more of the old skills" in words.sentence(compare_models([kept], [worse], roles=roles))
    idle = tiny(tmp_path, "idle", {"goal": [0] * many, "facts": [1] * many, "sums": [1] * many})
    assert "but kept more of the old skills" in words.sentence(compare_models([worse], [idle], roles=roles))


def test_single_tasks_forgotten_are_named_though_the_group_is_retained(tmp_path):
    flat = {f"task{i}": [1] * 100 for i in range(9)}
    base = tiny(tmp_path, "base", flat | {"sums": [1] * 100})
    new = tiny(tmp_path, "new", flat | {"sums": [1] * 80 + [0] * 20})
    roles = dict.fromkeys([*flat, "sums"], "retained")
    text = words.sentence(compare_models([base], [new], roles=roles), from_base=True)
    assert "less than the margin" in text and text.endswith("Forgotten, looked at alone: sums.")


def test_the_verdict_table_fits_a_hundred_columns(tmp_path):
    report = write(tmp_path, items=60)
    results = Results(
        report.recipe, report.question, tuple(compare_all(report)), {}, tmp_path / "r.html", ("a warning",)
    )
    text = printed(print_results, results)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and report.question in text and "a warning" in text
    rows = [line for line in lines if line.startswith(("ppo vs sft", "sft vs base", "ppo vs base"))]
    assert len(rows) == 3 and rows[0].startswith("ppo vs sft")  # the declared contrast comes first
    for row in rows:
        assert row.split()[-1] in {"retained", "forgot", "inconclusive", "loss)", "gain)"}


def test_comparing_two_models_prints_every_task(tmp_path):
    scores = {"a_task_with_a_rather_long_name": [1, 0] * 20, "facts": [1] * 40}
    a, b = (
        tiny(tmp_path, "first", scores),
        tiny(tmp_path, "second", {task: values[::-1] for task, values in scores.items()}),
    )
    text = printed(print_comparison, compare_models([a], [b]))
    assert max(map(len, text.splitlines())) <= 100
    assert "facts" in text and "no claim about the method" in text
