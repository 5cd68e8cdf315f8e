"""Hub references against the Hugging Face cache in offline mode, as on a cluster node without network."""

import json
import multiprocessing

import httpx
import pytest
from huggingface_hub import HfApi, constants

from alignment.core.artifact import digest_file
from alignment.core.config import DataRef, ModelRef
from alignment.core.errors import DataError, ModelError
from alignment.data.rows import load_rows
from recipes.external import Externals

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache as the hub's client leaves it: refs/main names the commit, snapshots/<commit> holds the files."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(kind, name, files):
        folder = tmp_path / f"{kind}s--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(SHA)
        snapshot = folder / "snapshots" / SHA
        snapshot.mkdir(parents=True)
        for file, text in files.items():
            (snapshot / file).write_text(text)
        return snapshot

    return add


def test_a_cached_hub_model_is_its_snapshot_folder(cache):
    snapshot = cache("model", "org/tiny", {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"})
    artifact = Externals().model(ModelRef(hub="org/tiny"), "stages.sft.model")
    assert artifact.path == snapshot
    assert Externals().model(ModelRef(hub="org/tiny", revision=SHA), "x").digest == artifact.digest


def test_a_hub_model_and_the_same_files_in_a_folder_are_the_same_model(cache):
    snapshot = cache("model", "org/tiny", {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"})
    by_path = Externals().model(ModelRef(path=str(snapshot)), "x")
    assert by_path.digest == Externals().model(ModelRef(hub="org/tiny"), "x").digest


def test_an_uncached_hub_model_is_one_clear_message(cache):
    with pytest.raises(ModelError) as caught:
        Externals().model(ModelRef(hub="org/none"), "stages.sft.model")
    assert "hub model 'org/none' is not in the local cache and cannot be fetched" in str(caught.value)


def test_a_wrong_revision_is_not_taken_for_the_cached_one(cache):
    cache("model", "org/tiny", {"config.json": "{}"})
    with pytest.raises(ModelError):
        Externals().model(ModelRef(hub="org/tiny", revision="f" * 40), "x")


def test_the_commit_of_a_cached_hub_data_set_is_its_identity(cache):
    cache("dataset", "org/rows", {"train.jsonl": json.dumps({"text": "a"}) + "\n"})
    artifact, identity = Externals().resolve(DataRef(hub="org/rows"), "stages.sft.data")
    assert artifact is not None
    assert artifact.digest == SHA  # what the stage that reads the rows asks for
    assert identity == {"hub": "org/rows", "revision": SHA}
    with pytest.raises(DataError, match="cannot be reached"):
        Externals().resolve(DataRef(hub="org/none"), "stages.sft.data")


def test_rows_of_an_uncached_hub_data_set_name_the_data_set(cache):
    with pytest.raises(DataError, match="hub data set 'org/none'"):
        load_rows(DataRef(hub="org/none"), where="stages.sft.data")


def test_a_part_of_a_model_in_the_cache_is_not_taken_for_the_model(cache):
    cache("model", "org/part", {"config.json": "{}", "tokenizer.json": "{}"})
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        Externals().model(ModelRef(hub="org/part"), "x")


@pytest.mark.parametrize(
    ("missing", "word"), [("model.safetensors", "safetensors"), ("tokenizer.json", "no tokenizer")]
)
def test_a_folder_without_weights_or_tokenizer_is_no_model(tmp_path, missing, word):
    for name in {"config.json", "model.safetensors", "tokenizer.json"} - {missing}:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=word):
        Externals().model(ModelRef(path=str(tmp_path)), "x")


def test_the_same_bytes_read_in_another_way_are_other_data(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "a.txt").write_text('{"text": "a"}\n')
    digests = [Externals().resolve(DataRef(path=str(tmp_path / name)), "x")[1] for name in ("a.jsonl", "a.txt")]
    assert digests[0] != digests[1]


def test_what_a_task_file_includes_calls_and_reads_is_part_of_its_identity(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        f"task: mine\ndoc_to_text: !function helper.text\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
    )
    (folder / "helper.py").write_text("text = 1\n")

    def digest():
        return Externals().task_file_digest(str(folder / "mine.yaml"), "x")

    first = digest()
    (folder / "helper.py").write_text("text = 2\n")
    second = digest()
    data.write_text("{ }\n")
    assert len({first, second, digest()}) == 3


def _remember(folder, memory, start):
    start.wait()
    externals = Externals(memory)
    for path in sorted(folder.iterdir()):
        externals.resolve(DataRef(path=str(path)), "x")


def test_two_commands_at_once_share_the_memory_of_digests(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jsonl").write_text("{}\n")
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    processes = [context.Process(target=_remember, args=(folder, tmp_path / "memory.json", start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_folder_without_config_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        Externals().model(ModelRef(path=str(tmp_path)), "stages.sft.model")


def test_a_damaged_memory_of_digests_is_ignored(tmp_path):
    memory = tmp_path / ".digests.json"
    memory.write_text('{"half')
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    _, identity = Externals(memory).resolve(DataRef(path=str(rows)), "x")
    assert identity == {"files": [[".jsonl", digest_file(rows)]]}
    assert json.loads(memory.read_text())


def test_what_a_task_file_includes_from_elsewhere_is_a_part_of_it(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "base" / "base.yaml").write_text(f"dataset_kwargs: {{data_files: {tmp_path / 'rows.jsonl'}}}")
    (tmp_path / "own" / "task.yaml").write_text("include: ../base/base.yaml\ntask: mine\n")
    task, digests = str(tmp_path / "own" / "task.yaml"), []
    for change in (None, tmp_path / "base" / "base.yaml", tmp_path / "rows.jsonl"):
        if change is not None:
            change.write_text(change.read_text() + " ")
        digests.append(Externals().task_file_digest(task, "evaluation"))
    assert len(set(digests)) == 3


def test_without_a_network_a_hub_data_set_is_one_clear_message(cache, monkeypatch):
    def nobody(*_, **__):
        raise httpx.ConnectError("Name or service not known")  # no OSError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", nobody)
    with pytest.raises(DataError, match="cannot be reached: Name or service not known"):
        Externals().resolve(DataRef(hub="somebody/rows"), "stages.sft.data")
