"""From pre-training to lm-eval: a base trained for seconds is saved, loaded and measured on every task of the lab."""

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from alignment.core.context import Context
from alignment.lab import data, stage
from alignment.lab.config import PretrainConfig
from alignment.lab.service import gold
from eval.catalogue import FOLDER

CHOICES = {"lab_facts": 4, "lab_odd": 4, "lab_compare": 2, "lab_sentiment": 2, "lab_agreement": 2}
GENERATED = ("lab_add", "lab_sort", "lab_backwards")
SERVICE = ("lab_service", "lab_service_generalisation")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    stage.run(PretrainConfig(hidden_size=128, steps=150, learning_rate=5e-3), {}, Context.at(folder))
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=64)


def measure(base, tasks, chat, limit=None):
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    results = simple_evaluate(
        model=base,
        tasks=tasks,
        task_manager=manager,
        apply_chat_template=chat,
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results is not None
    return results


@pytest.fixture(scope="module")
def retained(base):
    return measure(base, ["lab_retained"], chat=False, limit=100)


def test_the_group_holds_the_eight_skills(retained):
    assert set(retained["samples"]) == {*CHOICES, *GENERATED}
    assert all(len(samples) == 100 for samples in retained["samples"].values())


def test_what_is_easy_is_learned_within_seconds_and_what_is_hard_is_not(retained):
    assert retained["results"]["lab_agreement"]["acc,none"] > 0.9
    assert retained["results"]["lab_add"]["exact_match,none"] < 0.5


def test_choices_are_asked_in_the_corpus_own_words(retained):
    stated = {row["text"] for row in data.rows("corpus", "train")}
    context, continuation = retained["samples"]["lab_agreement"][0]["arguments"][0]
    assert (context + continuation).startswith("The ")
    assert continuation.startswith(" is ")
    question = retained["samples"]["lab_add"][0]["arguments"][0][0]
    assert question.startswith("Question: What is ")
    assert question.endswith("? Answer:")
    assert any(text.startswith("Question: What is ") and "? Answer: " in text for text in stated)


def test_exact_match_compares_what_was_generated_with_the_answer(retained):
    for task in GENERATED:
        for sample in retained["samples"][task]:
            assert sample["exact_match"] == (sample["resps"][0][0] == sample["doc"]["answer"])


def test_service_is_sampled_in_the_chat_format_and_scored_by_gold(base):
    results = measure(base, list(SERVICE), chat=True, limit=20)
    for task in SERVICE:
        samples = results["samples"][task]
        for sample in samples:
            assert sample["arguments"][0][0] == f"<|user|>{sample['doc']['prompt']}<|end|><|assistant|>"
            assert sample["gold"] == gold(sample["doc"]["prompt"], sample["resps"][0][0])
        assert len({sample["resps"][0][0] for sample in samples}) > 5, "sampled answers differ"


def test_each_task_file_declares_version_chance_and_format():
    for path in sorted((FOLDER / "lab").glob("lab_*.yaml")):
        task = yaml.safe_load(path.read_text().replace("!function ", ""))
        name = path.stem
        if name == "lab_retained":
            continue
        assert task["metadata"]["version"] == 1
        assert task["metadata"]["chance"] == (1 / CHOICES[name] if name in CHOICES else 0)
        assert task["metadata"]["format"] == ("chat" if name in SERVICE else "plain")
