"""A finished result is found; half of one never is."""

import json
import multiprocessing
import os
import shutil
import time

import pytest
from filelock import FileLock, Timeout

from alignment.core.artifact import digest_of
from alignment.core.store import Store, is_whole, read_manifest

RECORD = {
    "kind": "model",
    "stage": "sft",
    "stage_kind": "sft",
    "seed": 0,
    "identity": {},
    "inputs": {},
    "summary": {"steps": 3},
}
RECORD["provenance"] = {"seconds": 1.0, "started": 0}


def make(store: Store, name: str, text: str = "weights"):
    digest = digest_of(name)
    with store.claim(digest) as work:
        (work / "scratch").mkdir(parents=True)
        (work / "scratch" / "checkpoint").write_text("big")
        (work / "model.safetensors").write_text(text)
        return store.finish(digest, "lab/demo", name, RECORD)


def test_a_finished_cell_is_found_in_any_recipe_and_scratch_is_gone(tmp_path):
    store = Store(tmp_path)
    made = make(store, "sft-seed0")
    found = Store(tmp_path).find(digest_of("sft-seed0"))
    assert found == made
    assert found.summary == {"steps": 3}
    assert made.path == tmp_path / "lab/demo" / f"sft-seed0-{made.digest[:12]}"
    assert sorted(os.listdir(made.path)) == ["manifest.json", "model.safetensors"]
    assert not store.partial(made.digest).exists()


def test_a_truncated_file_is_no_result_and_is_replaced_when_made_again(tmp_path):
    store = Store(tmp_path)
    made = make(store, "sft-seed0")
    (made.path / "model.safetensors").write_text("wei")
    assert store.find(made.digest) is None
    again = make(store, "sft-seed0")
    assert (again.path / "model.safetensors").read_text() == "weights"
    assert store.find(made.digest) == again


def test_same_size_but_other_bytes_is_found_by_reading_contents(tmp_path):
    made = make(Store(tmp_path), "sft-seed0")
    (made.path / "model.safetensors").write_text("WEIGHTS")
    manifest = read_manifest(made.path)
    assert manifest is not None
    assert is_whole(made.path, manifest)
    assert not is_whole(made.path, manifest, contents=True)


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"schema": 99}'])
def test_a_broken_manifest_is_no_result(tmp_path, broken):
    store = Store(tmp_path)
    made = make(store, "sft-seed0")
    (made.path / "manifest.json").write_text(broken)
    assert store.find(made.digest) is None
    assert list(store.manifests()) == []


def test_files_without_manifest_are_no_result(tmp_path):
    store = Store(tmp_path)
    with store.claim(digest_of("x")) as work:
        work.mkdir(parents=True)
        (work / "model.safetensors").write_text("weights")
    assert store.find(digest_of("x")) is None
    assert store.recover(digest_of("x")) is None


def test_a_death_between_manifest_and_move_loses_nothing(tmp_path):
    store = Store(tmp_path)
    made = make(store, "sft-seed0")
    work = store.partial(made.digest)
    work.parent.mkdir(exist_ok=True)
    os.replace(made.path, work)  # the state such a death leaves behind
    assert store.find(made.digest) is None
    assert store.recover(made.digest) == made
    assert store.find(made.digest) == made


def test_recovering_what_another_process_has_just_moved_keeps_the_result(tmp_path):
    """Two runs both saw the manifest in the work folder; the slower one must not delete what the faster one moved."""
    store = Store(tmp_path)
    made = make(store, "sft-seed0")
    shutil.copytree(made.path, store.partial(made.digest))
    assert store.recover(made.digest) == made
    assert store.find(made.digest) == made
    assert not store.partial(made.digest).exists()


@pytest.mark.parametrize("foreign", [{"schema": 1}, {"schema": 1, "digest": "x"}])
def test_a_manifest_of_something_else_is_no_result(tmp_path, foreign):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(foreign))
    assert list(Store(tmp_path).manifests()) == []


def test_damage_in_one_result_leaves_the_others(tmp_path):
    store = Store(tmp_path)
    first, second = make(store, "a"), make(store, "b")
    (first.path / "manifest.json").write_text("{")
    assert [manifest["label"] for _, manifest in store.manifests()] == ["b"]
    assert store.find(second.digest) is not None


def _hold(root, digest, events):
    with Store(root).claim(digest):
        events.put("held")
        time.sleep(60)


def test_a_claim_excludes_other_processes_and_ends_with_kill_9(tmp_path):
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    digest = digest_of("x")
    holder = context.Process(target=_hold, args=(tmp_path, digest, events))
    holder.start()
    assert events.get(timeout=30) == "held"
    (lock,) = (tmp_path / ".locks").glob("*.lock")
    with pytest.raises(Timeout):
        FileLock(lock, timeout=0).acquire()
    holder.kill()
    holder.join()
    with FileLock(lock, timeout=0):
        pass
    with Store(tmp_path).claim(digest):
        pass


def test_digest_of_does_not_depend_on_key_order():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256 of "{}"
    assert json.dumps({}) == "{}"
