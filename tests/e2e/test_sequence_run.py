"""Two lessons in a row and one again, from the recipe to results.json, terminal and page."""

import json

import pytest
import yaml

LESSON = {"kind": "sft", "steps": 4, "batch_size": 8, "learning_rate": 0.001, "checkpoint_every": 2}
WATCHED = LESSON | {"data": {"lab": "skill-sort"}, "evaluate": {"every": 2, "tasks": ["lab_sort"]}}
REPLAY = {"data": {"lab": "skill-sort"}, "share": 0.2}
RECIPE = {
    "name": "test/sequence",
    "question": "What does the second lesson cost the first?",
    "seeds": [0],
    "stages": {
        "base": {
            "kind": "pretrain", "seed": 0, "hidden_size": 64, "layers": 1, "steps": 20, "batch_tokens": 256,
            "leave_out": ["agreement", "sort"],
        },
        "s": WATCHED | {"model": {"stage": "base"}},
        "sa": LESSON | {"model": {"stage": "s"}, "data": {"lab": "skill-agreement"}, "replay": REPLAY},
        "again": WATCHED | {"model": {"stage": "sa"}},
    },
    "evaluation": {"models": ["base", "s", "sa", "again"], "target": ["lab_sort", "lab_agreement"], "limit": 20},
    "comparison": {
        "sequences": [{"name": "sort, agreement", "base": "base", "stages": {"s": "lab_sort", "sa": "lab_agreement"}}],
        "relearning": [{"task": "lab_sort", "lost": "again", "never": "s"}],
    },
}  # fmt: skip


@pytest.mark.slow
def test_a_sequence_and_a_relearning_probe_are_measured_and_shown(tmp_path, align):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    done = align("run", "recipe.yaml", "--store", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "test" / "sequence" / "report"
    results = json.loads((folder / "results.json").read_text())

    [entry] = results["sequences"]
    values = {(row["stage"], row["task"]): row["value"] for row in results["evaluations"]}
    tasks = ["lab_sort", "lab_agreement"]
    assert entry["scores"] == [[values[stage, task] for task in tasks] for stage in ("base", "s", "sa")]
    assert entry["bwt"]["value"] == values["sa", "lab_sort"] - values["s", "lab_sort"]
    assert entry["fwt"]["value"] == values["s", "lab_agreement"] - values["base", "lab_agreement"]

    [probe] = results["relearning"]
    assert probe["lost"]["curve"]["steps"] == probe["never"]["curve"]["steps"] == [0, 2, 4]
    ends = {side: (probe[side]["curve"]["values"][0], probe[side]["curve"]["values"][-1]) for side in ("lost", "never")}
    assert ends["lost"] == (values["sa", "lab_sort"], values["again", "lab_sort"])
    assert ends["never"] == (values["base", "lab_sort"], values["s", "lab_sort"])

    shown = " ".join(done.stdout.split())
    assert "sort, agreement (2 tasks, 1 seed): average forgetting" in shown and "lab_sort at 80.0 points after" in shown
    page = (folder / "report.html").read_text()
    assert "Task after task" in page and "Gone or only buried?" in page
