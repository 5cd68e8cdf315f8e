"""Logs as lm-eval itself writes them: a few small tasks, run and saved through its own library."""

from __future__ import annotations

from pathlib import Path

DATA = """
from datasets import Dataset

WORDS = ["cow", "dog", "cat"]
COLOURS = ["red", "blue", "green"]
ROWS = [
    {"prompt": f"the {WORDS[i % 3]} {how} is", "answer": i % 2, "choices": COLOURS[:2 + i % 2]}
    | {"word": COLOURS[i % 2], "source": f"s{i // 2}"}
    for i, how in enumerate(f"{a} {b}" for a in ["big", "small", "good", "bad"] for b in ["and", "runs", "eats", "sleeps", "yes"])
]

def load(**_):
    return {"test": Dataset.from_list(ROWS)}
"""
COMMON = "custom_dataset: !function tiny_data.load\ntest_split: test\ndoc_to_text: prompt\n"
MEAN = "  - {{metric: {}, aggregation: mean, higher_is_better: true}}\n"
TASKS = {
    "tiny_number": COMMON
    + "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n"
    + MEAN.format("acc")
    + MEAN.format("acc_norm")
    + "metadata: {version: 3, cluster: source}\n",
    "tiny_word": COMMON
    + "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: word\nmetric_list:\n"
    + MEAN.format("acc")
    + "metadata: {version: 1}\n",
    "tiny_answer": COMMON
    + "output_type: generate_until\ndoc_to_target: word\ngeneration_kwargs: {do_sample: false, max_gen_toks: 2, until: ['<|end|>']}\n"
    + "filter_list:\n  - {name: first, filter: [{function: take_first}]}\n"
    + "  - {name: lower, filter: [{function: lowercase}, {function: take_first}]}\nmetric_list:\n"
    + MEAN.format("exact_match")
    + "metadata: {version: 1}\n",
    "tiny_text": COMMON.replace("doc_to_text: prompt", "doc_to_text: ''")
    + "output_type: loglikelihood_rolling\ndoc_to_target: prompt\nmetric_list:\n"
    + "  - {metric: word_perplexity}\n  - {metric: bits_per_byte}\nmetadata: {version: 1}\n",
    "tiny_last": COMMON
    + "output_type: loglikelihood\ndoc_to_target: ' {{word}}'\nmetric_list:\n"
    + "  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
    + MEAN.format("acc")
    + "metadata: {version: 1}\n",
}
GROUP = "group: tiny_choices\ntask: [tiny_number, tiny_word]\nmetadata: {version: 1}\n"


def write_tasks(folder: Path) -> Path:
    folder.mkdir()
    (folder / "tiny_data.py").write_text(DATA)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}")
    (folder / "tiny_choices.yaml").write_text(GROUP)
    return folder


def run_lm_eval(model: Path, tasks: list[str], include: Path, output: Path, **options) -> Path:
    """What `lm_eval --model hf --log_samples --output_path` does, without the 17 s in which it indexes all its tasks."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(output))
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=tasks,  # type: ignore[arg-type]
        device="cpu",
        batch_size=8,
        log_samples=True,
        bootstrap_iters=0,
        evaluation_tracker=tracker,
        task_manager=TaskManager(include_path=str(include), include_defaults=False),
        **options,
    )
    assert results is not None
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)  # type: ignore[arg-type]
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return output
