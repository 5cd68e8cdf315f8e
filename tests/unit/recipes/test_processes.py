"""What `runtime:` and accelerate's files ask for, which GPUs a cell gets, and which of several failures is told."""

import signal
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from alignment.core.config import Runtime
from alignment.core.errors import CellFailed, RecipeError, SuiteError
from alignment.core.store import Store
from alignment.ppo.config import PPOConfig
from alignment.sft.config import SFTConfig
from recipes import runner
from recipes.launch import RankFailed, _first, cause
from recipes.plan import Cell
from recipes.processes import KEYS, SHIPPED, Layout, read_layout, with_layout

FSDP = {"fsdp_version": 2, "fsdp_reshard_after_forward": True}


def stage(**runtime):
    return SFTConfig(model={"path": "m"}, data={"path": "d"}, steps=1, runtime=Runtime(**runtime))


@pytest.fixture
def layout(tmp_path):
    """The layout of a stage with an accelerate file of these settings."""

    def read(precision="fp32", runtime=None, **settings):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({"distributed_type": "MULTI_GPU", "num_processes": 4} | settings))
        config = stage(accelerate=str(path), **(runtime or {})).model_copy(update={"precision": precision})
        return read_layout(config, "stages.x")

    return read


def test_processes_and_sharding_come_from_the_recipe():
    assert read_layout(stage(), "") == Layout(1, "none", "auto")
    assert read_layout(stage(processes=2, sharding="full"), "") == Layout(2, "full", "auto")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_are_accelerate_s_own_format_and_mean_here_what_they_mean_there(path):
    theirs = load_config_from_file(str(path))
    ours = read_layout(stage(accelerate=path.stem), "stages.x")
    kind, _, count = path.stem.partition("-")
    assert theirs.num_processes == ours.processes == int(count)
    assert ours.sharding == ("full" if kind == "fsdp2" else "none")
    assert theirs.use_cpu == (ours.device == "cpu") == (kind == "cpu")
    assert ours.notes == () or kind == "fsdp2"


def test_every_key_of_the_installed_accelerate_is_known():
    assert set(ClusterConfig.__dataclass_fields__) <= KEYS


@pytest.mark.parametrize(
    ("settings", "sharding", "device"),
    [
        ({}, "none", "gpu"),
        ({"distributed_type": "MULTI_CPU", "use_cpu": True}, "none", "cpu"),
        ({"distributed_type": "FSDP", "fsdp_config": FSDP}, "full", "gpu"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}, "use_cpu": True}, "full", "cpu"),
        ({"distributed_type": "FSDP", "fsdp_config": FSDP | {"fsdp_reshard_after_forward": False}}, "gradients", "gpu"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, "gradients", "gpu"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}}, "full", "gpu"),
    ],
)
def test_each_kind_of_distribution_has_its_sharding_and_device(settings, sharding, device, layout):
    read = layout(**settings)
    assert (read.processes, read.sharding, read.device, read.here) == (4, sharding, device, 4)


def test_several_machines_share_the_processes_evenly(layout):
    read = layout(num_machines=2, machine_rank=1, main_process_ip="10.0.0.7", main_process_port=29500)
    assert (read.here, read.machines, read.machine, read.address, read.port) == (2, 2, 1, "10.0.0.7", 29500)


def test_what_the_file_cannot_decide_is_told(layout):
    notes = layout(mixed_precision="bf16", debug=True).notes
    assert len(notes) == 2
    assert notes[0].endswith("own.yaml: debug")
    assert "mixed_precision bf16 is not used: the stage's own precision is fp32" in notes[1]
    assert layout(precision="bf16", mixed_precision="bf16").notes == ()
    deepspeed = layout(distributed_type="DEEPSPEED", deepspeed_config={"zero_stage": 3, "gradient_clipping": 1.0}).notes
    assert "by torch's fully_shard" in deepspeed[0]
    assert deepspeed[1].endswith("own.yaml: gradient_clipping")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_proceses": 2}, "num_proceses: unknown key.*num_processes"),
        ({"distributed_type": "MEGATRON_LM"}, "distributed_type: not valid: got 'MEGATRON_LM'"),
        ({"num_processes": 0}, "num_processes: not valid: got 0"),
        ({"num_processes": "4"}, "num_processes: not valid: got '4'"),
        ({"num_processes": True}, "num_processes: not valid: got True"),
        ({"distributed_type": "NO"}, "num_processes: not valid: got 4.*1 with distributed_type NO"),
        ({"use_cpu": True}, "use_cpu: not valid.*false with distributed_type MULTI_GPU"),
        ({"distributed_type": "FSDP"}, "fsdp_config: fsdp_version 1.*to-fsdp2"),
        (
            {"distributed_type": "FSDP", "fsdp_config": FSDP | {"fsdp_offload_params": True}},
            "fsdp_offload_params: not valid",
        ),
        ({"distributed_type": "DEEPSPEED"}, "zero_stage: not valid: got None.*2 or 3"),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3, "offload_param_device": "cpu"}},
            "offload_param_device: not valid",
        ),
        ({"fp8_config": {"backend": "TE"}}, "fp8_config: cannot be carried out here"),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "compute_environment: not valid"),
        ({"num_machines": 2}, "main_process_ip: not valid: got None"),
        ({"num_machines": 2, "main_process_ip": "10.0.0.7"}, "main_process_port: not valid: got None"),
        ({"num_machines": 3, "main_process_ip": "10.0.0.7"}, "num_processes: not valid: got 4.*multiple of"),
        ({"num_machines": 2, "machine_rank": 2}, "machine_rank: not valid: got 2.*0 to 1"),
        ({"runtime": {"processes": 2}}, "stages.x.runtime.processes: 2, but own.yaml says 4"),
        ({"runtime": {"sharding": "full"}}, "stages.x.runtime.sharding: full, but own.yaml says none"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_name(settings, named, layout):
    with pytest.raises(RecipeError, match=f"(?s){named}"):
        layout(**settings)


def test_a_file_that_is_not_there_or_no_mapping_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"(?s)stages.x.runtime.accelerate: no accelerate.*did you mean ddp-4"):
        read_layout(stage(accelerate="ddp4"), "stages.x")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(RecipeError, match="not a mapping"):
        read_layout(stage(accelerate=str(tmp_path / "list.yaml")), "stages.x")
    (tmp_path / "torn.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_layout(stage(accelerate=str(tmp_path / "torn.yaml")), "stages.x")


def test_a_kind_that_one_process_carries_out_refuses_more():
    with pytest.raises(RecipeError, match=r"(?s)stages.x.runtime: 2 processes for a stage of kind sft.*kind ppo"):
        with_layout(stage(processes=2), "stages.x")
    ppo = PPOConfig(model={"path": "m"}, reward={"path": "r"}, prompts={"path": "p"}, runtime={"accelerate": "fsdp2-4"})
    runtime = with_layout(ppo, "stages.x").runtime
    assert (runtime.processes, runtime.sharding) == (4, "full")


def test_an_accelerate_file_may_not_ask_for_processes_without_work():
    few = {"minibatch_size": 4, "runtime": {"accelerate": "ddp-8"}}
    ppo = PPOConfig.model_validate({"model": {"path": "m"}, "reward": {"path": "r"}, "prompts": {"path": "p"}} | few)
    with pytest.raises(RecipeError, match=r"stages.x.runtime: minibatch_size: 4 is too few for runtime.processes 8"):
        with_layout(ppo, "stages.x")


# which GPUs


def cell(name, processes):
    return Cell(name, stage(processes=processes), 0, None, {}, name)


@pytest.fixture
def executor(monkeypatch, tmp_path):
    """The runner's executor on a machine of four GPUs; starting a cell only notes the GPUs that it takes."""
    started = {}

    class Noting(runner._Executor):
        def _launch(self, cell):
            started[cell.stage] = [self.gpus.pop(0) for _ in range(self._gpus_for(cell))]
            self.running.append(SimpleNamespace(cell=cell))  # type: ignore[arg-type]

    def make(*cells, gpus="0,1,2,3", jobs=4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        return Noting(Store(tmp_path), "", None, jobs, runner.Outcome(), list(cells)), started  # type: ignore[arg-type]

    return make


def test_a_cell_takes_its_gpus_together_and_waits_until_enough_are_free(executor):
    run, started = executor(cell("one", 1), cell("four", 4), cell("two", 1))
    run._launch_ready()
    assert started == {"one": ["0"]}  # `four` waits for all, and `two` must not take from it
    run.running.clear()
    run.gpus.append("0")
    run._launch_ready()
    assert started["four"] == ["1", "2", "3", "0"]
    assert "two" not in started
    run.running.clear()
    run.gpus += started["four"]
    run._launch_ready()
    assert started["two"] == ["1"]


def test_more_gpus_than_the_machine_has_are_refused_at_the_start(executor):
    with pytest.raises(RecipeError, match=r"(?s)stages.big.runtime: 8 processes.*at most 4"):
        executor(cell("big", 8))
    with pytest.raises(RecipeError, match=r"(?s)at most 0"):
        executor(Cell("gpu", stage(accelerate="ddp-4"), 0, None, {}, "gpu"), gpus="")


def test_on_the_cpu_each_process_counts_as_a_job(executor):
    run, started = executor(cell("pair", 2), cell("one", 1), gpus="", jobs=2)
    run._launch_ready()
    assert started == {"pair": []}
    run, started = executor(cell("many", 8), gpus="", jobs=2)  # never more than all jobs: it does start
    run._launch_ready()
    assert "many" in started


# which failure


MISTAKE = {"where": "data", "what": "no rows", "expected": "rows", "remedy": "add some", "exit_code": 2}
LOST = {"traceback": "RuntimeError: Connection closed by peer"}


def test_a_user_s_mistake_counts_before_what_it_did_to_the_others():
    error = cause({0: 1, 1: 1}, {0: LOST, 1: MISTAKE}, 2)
    assert isinstance(error, SuiteError)
    assert (error.where, error.what, error.exit_code) == ("data", "no rows", 2)


def test_a_killed_rank_counts_before_the_errors_of_those_that_lost_it():
    error = cause({0: -signal.SIGABRT, 1: 1, 2: -signal.SIGKILL}, {1: LOST}, 3)
    assert isinstance(error, CellFailed)
    assert error.where == "rank 2 of 3"
    assert "signal 9 (SIGKILL)" in error.what


def test_ranks_that_torchrun_stopped_did_not_fail_by_themselves():
    def ended(code, at):
        return SimpleNamespace(exitcode=code, timestamp=at)

    stopped = {0: ended(-signal.SIGTERM, 100), 1: ended(1, 100), 2: ended(-signal.SIGKILL, 130)}
    assert _first(stopped) == {1: 1}
    assert _first({0: ended(-signal.SIGKILL, 100), 1: ended(-signal.SIGTERM, 101)}) == {0: -signal.SIGKILL}
    assert _first({1: ended(-signal.SIGTERM, 100)}) == {1: -signal.SIGTERM}  # by somebody else


def test_the_first_error_that_was_told_is_the_cause():
    error = cause({0: 1, 1: 1}, {1: {"traceback": "ValueError: here"}, 0: LOST}, 2)
    assert isinstance(error, RankFailed)
    assert str(error) == "rank 1 of 2\nValueError: here"


def test_a_rank_that_ended_without_a_word_is_named_with_its_log():
    error = cause({1: 7}, {0: {"summary": {}}}, 2)
    assert str(error) == "rank 1 of 2: ended with code 7 and left no result\n  remedy:   see its log-rank1.txt"
