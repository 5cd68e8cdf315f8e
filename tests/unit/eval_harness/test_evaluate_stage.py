"""The stage on small tasks and a random model: every stored number against one worked out from the model itself."""

import json
import math
import random
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
import yaml

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef, ModelRef
from alignment.core.context import Context
from alignment.core.errors import DataError, ModelError, RecipeError
from alignment.data.rows import write_rows
from alignment.models.load import load_causal_lm, load_tokenizer
from eval import stage
from eval.config import EvaluateConfig, TextTask
from eval.items import SCHEMA

COLOURS = ["red", "blue", "green", "black"]
LOADER = """
import datasets, json, pathlib

def load(**_):
    rows = json.loads((pathlib.Path(__file__).parent / "rows.json").read_text())
    return {"test": datasets.Dataset.from_list(rows)}
"""


def write_task(folder, name, rows, **config):
    """An lm-eval task file with its rows beside it, as eval/tasks/lab has them."""
    folder = folder / name
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "world.py").write_text(LOADER)
    text = yaml.safe_dump({"task": name, "test_split": "test"} | config) + "custom_dataset: !function world.load\n"
    (folder / "task.yaml").write_text(text)
    return str(folder / "task.yaml")


def choice_task(folder, name="colours", items=12, form="plain"):
    draw = random.Random(5)
    rows = [
        {
            "question": f"Question: w{i} w{i + 1} Answer:",
            "choices": COLOURS,
            "label": draw.randrange(4),
            "source": i // 3,
        }
        for i in range(items)
    ]
    return write_task(
        folder,
        name,
        rows,
        output_type="multiple_choice",
        doc_to_text="question",
        doc_to_choice="choices",
        doc_to_target="label",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        metadata={"version": 3, "cluster": "source", "format": form},
    )


def measure(model, workdir, tasks=None, **config):
    config = EvaluateConfig(model=ModelRef(stage="sft"), tasks=tasks or {}, batch_size=8, **config)
    summary = stage.run(config, {"model": Artifact("model", "x", model)}, Context.at(workdir))
    table = pyarrow.parquet.read_table(workdir / "items.parquet")
    assert table.schema == SCHEMA
    return summary, json.loads((workdir / "evaluation.json").read_text()), table.to_pylist()


@torch.no_grad()
def logprob(model, tokenizer, prompt, answer, special=True):
    """log p(answer | prompt), summed over the answer's tokens, one pair at a time."""
    before = tokenizer.encode(prompt, add_special_tokens=special)
    after = tokenizer.encode(answer, add_special_tokens=False)
    logprobs = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(logprobs[len(before) - 1 + i, token].item() for i, token in enumerate(after))


@pytest.fixture(scope="module")
def reference(tiny):
    return load_causal_lm(tiny, dropout=False).eval(), load_tokenizer(tiny)


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_multiple_choice_equals_a_computation_by_hand(tiny, reference, tmp_path, form):
    model, tokenizer = reference
    path = choice_task(tmp_path, form=form)
    summary, evaluation, items = measure(tiny, tmp_path / "out", retained=[path])
    assert len(items) == 12
    hits = 0
    for number, item in enumerate(items):
        prompt = f"Question: w{number} w{number + 1} Answer:"
        if form == "chat":
            prompt = f"<|user|> {prompt} <|end|><|assistant|>"
        lls = [logprob(model, tokenizer, prompt, colour, special=form == "plain") for colour in COLOURS]
        assert item["choice_lls"] == pytest.approx(lls, abs=1e-4)
        assert item["score"] == float(lls.index(max(lls)) == item["gold_choice"])
        assert item["target"] == COLOURS[item["gold_choice"]]
        assert (item["doc_id"], item["cluster"], item["stage"]) == (number, str(number // 3), "sft")
        hits += item["score"]
    entry = evaluation["tasks"]["colours"]
    assert entry["value"] == summary["colours"] == hits / 12
    assert (entry["n"], entry["chance"], entry["task_version"]) == (12, 0.25, "3")
    assert (entry["role"], entry["metric"], entry["filter"], entry["format"]) == ("retained", "acc", "none", form)
    assert (entry["chat_template_digest"] is None) == (form == "plain")


def test_bits_per_byte_is_a_ratio_of_sums(tiny, reference, tmp_path):
    texts = ["w1 w2 w3", "red blue", "w5 unknownword é"]
    write_rows([{"text": text} for text in texts], tmp_path / "texts.jsonl")
    task = TextTask(metric="bits_per_byte", data=DataRef(path=str(tmp_path / "texts.jsonl")))
    summary, evaluation, items = measure(tiny, tmp_path / "out", {"texts": task}, retained=["texts"])
    lls = [logprob(*reference, "", text) for text in texts]
    assert [item["log_likelihood"] for item in items] == pytest.approx(lls, abs=1e-4)
    assert [item["bytes"] for item in items] == [8, 8, 17]  # é has two
    assert summary["texts"] == pytest.approx(-sum(lls) / (math.log(2) * 33), abs=1e-6)
    assert evaluation["tasks"]["texts"]["higher_is_better"] is False


@pytest.mark.parametrize("chat", [False, True])
def test_bits_per_byte_of_answers_given_their_prompts(tiny, reference, tmp_path, chat):
    """By hand; the line end of the prompt is scored, and counted, with the answer."""
    pairs = [("w1 w2\n", "red"), ("w3\n", "blue é"), ("w5\n", "[1]")]
    for prompt, answer in pairs:
        message = [{"role": "user", "content": prompt.strip()}]
        row = {"prompt": message if chat else prompt, "completion": answer}
        with (tmp_path / "answers.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    task = TextTask(metric="bits_per_byte", data=DataRef(path=str(tmp_path / "answers.jsonl")))
    summary, evaluation, items = measure(tiny, tmp_path / "out", {"answers": task}, target=["answers"])
    shown = [f"<|user|> {p.strip()} <|end|><|assistant|>" if chat else p.strip() for p, _ in pairs]
    said = [answer if chat else f"\n{answer}" for _, answer in pairs]
    lls = [logprob(*reference, prompt, answer, special=not chat) for prompt, answer in zip(shown, said, strict=True)]
    sizes = [3, 7, 3] if chat else [4, 8, 4]
    assert [item["bytes"] for item in items] == sizes
    assert [item["log_likelihood"] for item in items] == pytest.approx(lls, abs=1e-4)
    assert summary["answers"] == pytest.approx(-sum(lls) / (math.log(2) * sum(sizes)), abs=1e-6)
    entry = evaluation["tasks"]["answers"]
    assert (entry["role"], entry["format"], entry["higher_is_better"]) == ("target", "chat" if chat else "plain", False)


def gold_task(tmp_path, prompts, **options):
    write_rows([{"prompt": prompt} for prompt in prompts], tmp_path / "prompts.jsonl")
    data = DataRef(path=str(tmp_path / "prompts.jsonl"))
    return TextTask(metric="gold", gold="vader", data=data, max_new_tokens=6, **options)


@pytest.mark.parametrize("prompt", ["w1 w2", [{"role": "user", "content": "w1 w2"}]])
def test_greedy_answers_are_the_model_s_own(tiny, reference, tmp_path, prompt):
    model, tokenizer = reference
    ids = [1, 8, 9] if isinstance(prompt, str) else [4, 8, 9, 3, 5]
    _, evaluation, items = measure(
        tiny, tmp_path / "out", {"answers": gold_task(tmp_path, [prompt], temperature=0)}, target=["answers"]
    )
    start = len(ids)
    while len(ids) < start + 6:
        best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if best in (2, 3):
            break
        ids.append(best)
    assert items[0]["output"] == tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert evaluation["tasks"]["answers"]["sampled"] is False
    assert evaluation["tasks"]["answers"]["format"] == ("plain" if isinstance(prompt, str) else "chat")


def test_sampled_answers_do_not_depend_on_the_other_tasks(tiny, tmp_path):
    tasks = {"answers": gold_task(tmp_path, [f"w{i}" for i in range(10)])}
    colours = choice_task(tmp_path)
    _, evaluation, alone = measure(tiny, tmp_path / "alone", tasks, target=["answers"])
    _, _, together = measure(tiny, tmp_path / "together", tasks, target=["answers"], retained=[colours])
    assert evaluation["tasks"]["answers"]["sampled"] is True
    assert alone == [item for item in together if item["task"] == "answers"]
    _, _, other = measure(tiny, tmp_path / "other", tasks, target=["answers"], sampling_seed=1)
    assert [item["output"] for item in other] != [item["output"] for item in alone]
    assert [item["prompt_hash"] for item in other] == [item["prompt_hash"] for item in alone]


def test_what_decides_an_answer_is_in_the_settings_digest_of_its_task_alone(tiny, tmp_path):
    answers, colours = gold_task(tmp_path, ["w1", "w2"]), choice_task(tmp_path)

    def digests(name, task, **config):
        _, evaluation, _ = measure(tiny, tmp_path / name, {"answers": task}, target=["answers", colours], **config)
        return [evaluation["tasks"][task]["settings_digest"] for task in ("answers", "colours")]

    drawn, chosen = digests("first", answers)
    assert digests("again", answers) == [drawn, chosen]
    others = [{"max_new_tokens": 5}, {"temperature": 0.5}]
    changed = [digests(f"{n}", answers.model_copy(update=update)) for n, update in enumerate(others)]
    changed.append(digests("seed", answers, sampling_seed=1))
    assert len({drawn, *(digest for digest, _ in changed)}) == 4
    assert {digest for _, digest in changed} == {chosen}


def test_limit_takes_the_first_items_and_is_seen_in_the_data_digest(tiny, tmp_path):
    path = choice_task(tmp_path)
    path = str(Path(path).rename(Path(path).with_suffix(".yml")))  # the other ending of YAML files
    _, whole, items = measure(tiny, tmp_path / "whole", retained=[path])
    _, part, first = measure(tiny, tmp_path / "part", retained=[path], limit=5)
    assert [item["doc_hash"] for item in first] == [item["doc_hash"] for item in items[:5]]
    assert part["tasks"]["colours"]["data_digest"] != whole["tasks"]["colours"]["data_digest"]


def test_cut_prompts_are_counted(tiny, tmp_path):
    tasks = {"answers": gold_task(tmp_path, ["w1", " ".join(["w2"] * 40)])}
    _, evaluation, items = measure(tiny, tmp_path / "out", tasks, target=["answers"])
    assert [item["truncated"] for item in items] == [False, True]
    assert evaluation["tasks"]["answers"]["truncated"] == 1


def test_progress_is_told_by_task(tiny, tmp_path, capfd):
    measure(tiny, tmp_path / "out", retained=[choice_task(tmp_path)])
    state = json.loads((tmp_path / "out" / "progress.json").read_text())
    assert state["phase"] == "colours (1 of 1)"
    assert (state["done"], state["total"]) == (48, 48)  # 12 items x 4 choices
    captured = capfd.readouterr()
    assert "it/s" not in captured.err and "lm_eval" not in captured.err
    assert "colours: acc" in captured.out


def test_mistakes_are_told_as_such(tiny, tmp_path):
    colours = choice_task(tmp_path)
    with pytest.raises(RecipeError, match="'colours' comes twice"):
        measure(tiny, tmp_path / "out", target=[colours], retained=[colours])
    with pytest.raises(RecipeError, match="no tasks"):
        measure(tiny, tmp_path / "out")
    with pytest.raises(RecipeError, match="leave no room"):
        task = gold_task(tmp_path, ["w1"]).model_copy(update={"max_new_tokens": 32})
        measure(tiny, tmp_path / "out", {"answers": task}, target=["answers"])
    with pytest.raises(DataError, match="some prompts are text"):
        mixed = gold_task(tmp_path, ["w1", [{"role": "user", "content": "w2"}]])
        measure(tiny, tmp_path / "out", {"answers": mixed}, target=["answers"])
    with pytest.raises(RecipeError, match="no gold scorer 'nosuch'"):
        task = gold_task(tmp_path, ["w1"]).model_copy(update={"gold": "nosuch"})
        measure(tiny, tmp_path / "out", {"answers": task}, target=["answers"])


def test_chat_tasks_need_a_chat_template(tiny, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in tiny.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="no chat template"):
        measure(folder, tmp_path / "out", retained=[choice_task(tmp_path, form="chat")])


def test_a_metric_without_item_scores_is_refused(tiny, tmp_path):
    rows = [{"question": "w1", "choices": ["yes", "no"], "label": 0}]
    config = {"output_type": "multiple_choice", "doc_to_text": "question", "doc_to_choice": "choices"}
    metrics = [{"metric": "f1", "aggregation": "f1", "higher_is_better": True}]
    path = write_task(tmp_path, "f", rows, doc_to_target="label", metric_list=metrics, **config)
    with pytest.raises(RecipeError, match="gives no number for a single item"):
        measure(tiny, tmp_path / "out", retained=[path])


def test_an_unknown_name_is_answered_with_a_near_one(tiny, tmp_path):
    with pytest.raises(RecipeError, match="hellaswagg: no such task") as error:
        measure(tiny, tmp_path / "out", retained=["hellaswagg"])
    assert error.value.remedy == "did you mean hellaswag?"
