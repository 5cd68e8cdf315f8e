"""`align compare` finds the right cells, and PPO's two models must read the same tokens."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from alignment.core.artifact import digest_of
from alignment.core.errors import ModelError, RecipeError
from alignment.core.store import Store
from recipes.compare import compare_two
from recipes.sides import find_side
from recipes.wiring import require_same_tokens


def put(store: Store, started: int, stage: str, seed: int, kind: str = "model", inputs=None, **config) -> str:
    """A finished cell with an empty result. Returns its digest."""
    references = {role: {"stage": digest} for role, digest in (inputs or {}).items()}
    identity = {"kind": stage, "stage_version": 1, "seed": seed, "config": config | references}
    digest = digest_of(identity)
    with store.claim(digest) as work:
        work.mkdir(parents=True)
        record = {"kind": kind, "stage": stage, "stage_kind": stage, "seed": seed, "identity": identity}
        record |= {"inputs": inputs or {}, "summary": {}, "provenance": {"started": started}}
        store.finish(digest, "r", f"{stage.replace(':', '-')}-seed{seed}", record)
    return digest


def folder(store: Store, digest: str) -> Path:
    found = store.find(digest)
    assert found is not None
    return found.path


def test_seeds_of_two_configurations_are_not_one_arm(tmp_path):
    store = Store(tmp_path)
    old = [put(store, seed, "sft", seed, steps=10) for seed in range(3)]
    for seed in range(3):
        put(store, 10 + seed, "evaluate:sft", seed, "evaluation", {"model": old[seed]})
    new = put(store, 20, "sft", 0, steps=20)
    measured = put(store, 21, "evaluate:sft", 0, "evaluation", {"model": new})
    side = find_side("r/sft", store)
    assert side.models == {0: {"path": str(folder(store, new))}}
    assert side.evaluations == {0: folder(store, measured)}
    assert side.others == 1


def test_seeds_of_one_configuration_are_one_arm_unless_their_inputs_were_made_otherwise(tmp_path):
    store = Store(tmp_path)
    rewards = [put(store, seed, "reward", seed, epochs=1) for seed in range(2)]
    both = [put(store, 10 + seed, "ppo", seed, inputs={"reward": rewards[seed]}) for seed in range(2)]
    side = find_side("r/ppo", store)
    assert side.models == {seed: {"path": str(folder(store, both[seed]))} for seed in range(2)} and side.others == 0
    better = put(store, 20, "reward", 0, epochs=2)
    last = put(store, 21, "ppo", 0, inputs={"reward": better})
    side = find_side("r/ppo", store)
    assert side.models == {0: {"path": str(folder(store, last))}} and side.others == 1


def test_a_folder_without_weights_is_no_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="names nothing that can be compared"):
        find_side(str(tmp_path), Store(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("tasks", "limit", "margin", "message"),
    [([], 5, 0.05, "--limit"), ([], None, -1.0, "--margin"), (["nosuch"], None, 0.05, "no such task")],
)
def test_options_that_cannot_work_are_refused_at_once(tmp_path, tiny_folder, tasks, limit, margin, message):
    with pytest.raises(RecipeError, match=message):
        model = str(tiny_folder)
        compare_two(model, model, tasks, limit, margin, tmp_path / "runs", Console(file=io.StringIO()))


def test_a_model_is_compared_with_itself_under_two_names(tmp_path, tiny_folder):
    out = Console(file=io.StringIO(), width=120)
    compare_two(str(tiny_folder), str(tiny_folder), ["lab_add"], 4, 0.05, tmp_path / "runs", out)
    assert "bit for bit" in " ".join(out.file.getvalue().split())  # type: ignore[attr-defined]


def test_a_reward_model_with_other_token_ids_is_refused(tmp_path, tiny_folder):
    require_same_tokens(tiny_folder, tiny_folder)
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["cow"], words["dog"] = words["dog"], words["cow"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="2 tokens have another id"):
        require_same_tokens(tiny_folder, tmp_path)


def test_a_stage_of_another_store_is_named_by_its_path(tmp_path):
    store = Store(tmp_path / "theirs")
    model = put(store, 0, "sft", 0)
    put(store, 1, "evaluate:sft", 0, "evaluation", {"model": model})
    side = find_side(str(tmp_path / "theirs" / "r" / "sft"), Store(tmp_path / "ours"))
    assert side.models == {0: {"path": str(folder(store, model))}} and list(side.evaluations) == [0]
    with pytest.raises(RecipeError, match="names nothing that can be compared"):
        find_side(str(tmp_path / "theirs" / "r" / "ppo"), Store(tmp_path / "ours"))
