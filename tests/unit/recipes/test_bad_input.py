"""Every mistake in a recipe or its data is one message with where, what, expected and remedy; exit code 2; nothing is loaded."""

import json
import sys

import pytest
import yaml

from recipes import cli

GOOD = {
    "name": "test/demo",
    "stages": {
        "base": {"kind": "pretrain", "seed": 0},
        "sft": {"kind": "sft", "model": {"stage": "base"}, "data": {"path": "rows.jsonl"}, "steps": 3},
    },
    "evaluation": {"models": ["base", "sft"], "target": ["lab_service"], "retained": ["lab_facts"]},
    "comparison": {"contrasts": [["base", "sft"]]},
}
CLASSIFIER = {
    "kind": "classify",
    "model": {"stage": "base"},
    "data": {"path": "rows.jsonl", "columns": {"text": "prompt", "label": "completion"}},
    "steps": 1,
}
ROW = json.dumps({"prompt": "a", "completion": "b"}) + "\n"


def align(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of the command, and whether it imported torch."""
    monkeypatch.setattr(sys, "argv", ["align", *words])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Writes a recipe with changes at dotted paths and checks it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROW)

    def run(changes=(), text=None, command="check"):
        raw = json.loads(json.dumps(GOOD))
        for path, value in dict(changes).items():
            block = raw
            *parents, last = path.split(".")
            for parent in parents:
                block = block[parent]
            block[last] = value
        (tmp_path / "recipe.yaml").write_text(text if text is not None else yaml.safe_dump(raw, sort_keys=False))
        return align(monkeypatch, capsys, command, "recipe.yaml")

    return run


def test_the_recipe_without_a_mistake_passes(check):
    code, out, err = check()
    assert (code, err) == (0, "")
    assert "no errors found" in out


CASES = {
    "unknown key": ({"stages.sft.learning_rat": 1}, "stages.sft.learning_rat: unknown key", "did you mean learning_rate?"),
    "unknown key on top": ({"seedz": [1]}, "recipe.yaml: seedz: unknown key", "did you mean seeds?"),
    "wrong type": ({"stages.sft.steps": "many"}, "stages.sft.steps: not valid: got 'many'", "integer"),
    "unquoted text": ({"question": True}, "question: not valid: got True", "write it in quotes"),
    "value out of range": ({"stages.sft.steps": 0}, "stages.sft.steps: not valid: got 0", "greater than 0"),
    "missing key": ({"stages.sft": {"kind": "sft", "steps": 3, "data": {"lab": "demonstrations"}}}, "stages.sft.model: missing", "model:"),
    "no kind": ({"stages.sft": {"steps": 3}}, "stages.sft: has no kind", "one of pretrained, pretrain, sft"),
    "unknown kind": ({"stages.sft.kind": "sfft"}, "unknown kind 'sfft'", "did you mean sft?"),
    "kind of a wrong type": ({"stages.sft.kind": ["sft"]}, "unknown kind ['sft']", "did you mean sft?"),
    "name that leaves the store": ({"stages": {"../../evil": {"kind": "pretrain"}}}, "'../../evil' is no name for a stage", "rename it"),
    "negative seed": ({"seeds": [-1]}, "seeds: not valid", "seeds of 0 or more"),
    "not a number": ({"stages.sft.learning_rate": float("inf")}, "stages.sft.learning_rate: not valid", "finite"),
    "a data set as model": (
        {
            "stages.cut": {"kind": "excerpts", "model": {"stage": "base"}, "data": {"path": "rows.jsonl"}},
            "stages.sft.model": {"stage": "cut"},
        },
        "stages.sft.model: stage 'cut' makes a dataset",
        "a model: a stage of kind pretrained, pretrain, sft, ppo",
    ),
    "a model as data": ({"stages.sft.data": {"stage": "base"}}, "stages.sft.data: stage 'base' makes a model", "a dataset"),
    "a classifier as a language model": (
        {"stages.head": CLASSIFIER, "stages.sft.model": {"stage": "head"}},
        "stages.sft.model: stage 'head' makes a classifier", "expected: a model",
    ),
    "a classifier on a task without labels": (
        {"stages.head": CLASSIFIER, "evaluation.models": ["head"], "comparison.contrasts": []},
        "evaluation.target: lab_service: 'head' is a classifier, which cannot be measured on this task", "metric `labels`",
    ),
    "a classifier watched on a task without labels": (
        {"stages.head": CLASSIFIER | {"steps": 9, "evaluate": {"every": 2}}},
        "evaluation.target: lab_service: 'head' is a classifier", "leave the task or the classifier out",
    ),
    "a pretrained stage of a stage": (
        {"stages.x": {"kind": "pretrained", "model": {"stage": "base"}}}, "stages.x: not valid", "comes from outside",
    ),
    "tokens of a stage that counts none": (
        {"stages.sft.steps": None, "stages.sft.match_tokens": {"stage": "base"}}, "'base' counts no trained tokens", "kind sft, dpo",
    ),
    "folder as data": ({"stages.sft.data": {"path": "."}}, "is a folder", "name the files"),
    "no tasks": ({"evaluation.target": [], "evaluation.retained": []}, "evaluation: no tasks", "name what is to be measured"),
    "task in both roles": ({"evaluation.retained": ["lab_service"]}, "task 'lab_service' is named twice", "drop one"),
    "model against itself": ({"comparison.contrasts": [["sft", "sft"]]}, "'sft' against itself", "two different models"),
    "two sources": ({"stages.sft.model": {"stage": "base", "hub": "x/y"}}, "stages.sft.model", "exactly one of"),
    "missing stage": ({"stages.sft.model": {"stage": "bas"}}, "stages.sft.model: there is no stage 'bas'", "one of base, sft"),
    "missing evaluated model": ({"evaluation.models": ["ppo"]}, "evaluation.models: ppo: there is no stage 'ppo'", "one of base, sft"),
    "cycle": ({"stages.sft.model": {"stage": "sft"}}, "sft -> sft", "break the circle"),
    "missing file": ({"stages.sft.data": {"path": "none.jsonl"}}, "stages.sft.data: none.jsonl does not exist", "correct the path"),
    "missing model folder": ({"stages.sft.model": {"path": "nowhere"}}, "stages.sft.model: nowhere does not exist", "correct the path"),
    "unset variable": (
        {"stages.sft.data": {"path": "${NO_SUCH_VARIABLE}/rows.jsonl"}},
        "environment variable NO_SUCH_VARIABLE",
        "export NO_SUCH_VARIABLE=",
    ),
    "unknown lab data": ({"stages.sft.data": {"lab": "demos"}}, "the lab has no data set 'demos'", "demonstrations"),
    "unknown split": ({"stages.sft.data": {"path": "rows.jsonl", "split": "dev"}}, "unknown split 'dev'", "train, validation, test"),
    "unknown task": ({"evaluation.retained": ["lab_fact"]}, "evaluation.retained: lab_fact: no such task", "did you mean lab_facts?"),
    "contrast of an unmeasured model": (
        {"comparison.contrasts": [["base", "ppo"]]},
        "comparison.contrasts.0: 'ppo' is not among the evaluated models",
        "one of base, sft",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message_and_exit_code_2(check, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changes, what, remedy = CASES[name]
    code, _, err = check(changes)
    assert code == 2, err
    assert what in err
    assert remedy in err
    assert "expected:" in err
    assert "remedy:" in err
    assert "Traceback" not in err
    assert err.count("error ") <= 1 + err.count("error:")


UNREACHABLE = {
    "a model": ({"stages.sft.model": {"hub": "nobody/no-such-model"}}, "hub model 'nobody/no-such-model' is not in the local cache"),
    "data": ({"stages.sft.data": {"hub": "nobody/no-such-data"}}, "hub data set 'nobody/no-such-data' cannot be reached"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREACHABLE)
def test_without_a_network_a_hub_name_passes_the_check_and_stops_what_needs_it(check, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changes, what = UNREACHABLE[name]
    code, out, _ = check(changes)
    assert code == 0
    assert "not in the local cache, and the hub cannot be asked from here" in " ".join(out.split())
    code, _, err = check(changes, command="run")
    assert code == 2
    assert what in err
    assert "check name, revision and network" in err


@pytest.mark.parametrize("name", UNREACHABLE)
def test_a_name_that_the_hub_does_not_know_fails_the_check(check, name, monkeypatch):
    from httpx import Request, Response
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    def unknown(*_, **__):
        raise RepositoryNotFoundError("404", response=Response(404, request=Request("GET", "https://hub")))

    monkeypatch.setattr(HfApi, "repo_info", unknown)
    code, _, err = check(UNREACHABLE[name][0])
    assert code == 2
    assert "the hub has no" in err and "check name, revision and access" in err


FILES = {
    "empty data file": ("", "rows.jsonl holds no rows", "at least one row"),
    "malformed line": (ROW + '{"prompt": "a", \n' + ROW, "rows.jsonl: 1 bad row", "line 2"),
    "not an object": (ROW + "[1]\n", "line 2: a list, not an object", "each row to hold prompt, completion"),
    "row without the needed field": (ROW + '{"prompt": "x"}\n', "line 2: no field 'completion'", "prompt, completion"),
    "row with an empty field": (
        ROW + '{"prompt": "x", "completion": ""}\n',
        "line 2: field 'completion' is empty",
        "prompt",
    ),
    "field of a wrong type": (ROW + '{"prompt": 3, "completion": "x"}\n', "line 2: field 'prompt' is int", "prompt"),
    "messages that are none": (
        '{"prompt": ["a"], "completion": [1]}\n',
        "field 'prompt' holds what is no message with role and content",
        "prompt, completion",
    ),
    "none of the needed fields": (
        '{"question": "x"}\n',
        "rows hold question",
        "prompt + completion or messages or text",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_rows_name_file_line_and_field(check, tmp_path, name):
    content, what, expected = FILES[name]
    (tmp_path / "rows.jsonl").write_text(content)
    code, _, err = check()
    assert code == 2, err
    assert "stages.sft.data" in err
    assert what in err
    assert expected in err


def test_a_file_that_is_not_utf8_is_named(check, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    code, _, err = check()
    assert (code, "not UTF-8 at byte 12" in err) == (2, True)


def test_run_refuses_before_anything_is_made(check, tmp_path):
    code, _, err = check({"stages.sft.data": {"path": "none.jsonl"}}, command="run")
    assert code == 2
    assert "does not exist" in err
    assert not (tmp_path / "runs" / ".partial").exists()


def test_a_broken_parquet_file_is_named(check, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and then nothing")
    code, _, err = check({"stages.sft.data": {"path": "rows.parquet"}})
    assert (code, "a whole Parquet file" in err) == (2, True)


def test_a_key_that_stands_twice_is_named_with_its_line(check):
    code, _, err = check(text="name: test/demo\nseeds: [0]\nseeds: [1]\n")
    assert (code, "line 3" in err, "key 'seeds' stands twice" in err) == (2, True, True)


def test_a_recipe_that_is_not_utf8(check, tmp_path, monkeypatch, capsys):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = align(monkeypatch, capsys, "check", "latin.yaml")
    assert (code, "not UTF-8" in err) == (2, True)


def test_a_store_that_is_a_file(check, tmp_path, monkeypatch, capsys):
    check()
    for command in ("check", "plan", "run"):
        code, _, err = align(monkeypatch, capsys, command, "recipe.yaml", "--store", "rows.jsonl")
        assert (code, "is a file" in err) == (2, True)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1\n", "stages: 3\nname: x\n"])
def test_a_file_that_is_no_recipe(check, text):
    code, _, err = check(text=text)
    assert code == 2
    assert "expected:" in err


def test_an_unknown_recipe_name_lists_the_shipped_ones(monkeypatch, capsys):
    code, _, err = align(monkeypatch, capsys, "check", "lab/sft-vs-rlfh")
    assert code == 2
    assert "did you mean lab/sft-vs-rlhf?" in err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.sft.steps", "not of the form key=value"),
        ("stages.dpo.steps=3", "has no stage 'dpo'"),
        ("stages.sft.stepz=3", "did you mean steps?"),
        ("name.x=3", "not a block of settings"),
        ("stages.sft.steps=few", "got 'few'"),
        ("stages.sft.steps=[1", "is not a YAML value"),
    ],
)
def test_bad_overrides(check, monkeypatch, capsys, override, message):
    check()
    code, _, err = align(monkeypatch, capsys, "check", "recipe.yaml", "--set", override)
    assert code == 2
    assert message in err


def test_an_override_is_typed_and_changes_the_plan(check, monkeypatch, capsys):
    check()
    _, before, _ = align(monkeypatch, capsys, "plan", "recipe.yaml")
    _, after, _ = align(monkeypatch, capsys, "plan", "recipe.yaml", "--set", "stages.sft.steps=7")
    assert before.splitlines()[1] == after.splitlines()[1]  # base
    assert before.splitlines()[2] != after.splitlines()[2]  # sft


def test_wrong_usage_exits_with_2(monkeypatch, capsys):
    assert align(monkeypatch, capsys, "check")[0] == 2
    assert align(monkeypatch, capsys, "nonsense")[0] == 2


def test_no_heavy_library_is_imported_by_check(check, tmp_path):
    import subprocess

    check()
    code = (
        "import sys; sys.argv = ['align', 'check', 'recipe.yaml']\n"
        "from recipes import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'trl', 'vllm', 'lm_eval', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "no errors found" in done.stdout
    assert done.stdout.strip().endswith("[]")
