"""How many processes share a cell, on which machines, and what they divide: from `runtime:` and accelerate's own files.

Read when a recipe is read, without torch or accelerate. What such a file asks for and this suite cannot do is refused; what the
suite decides by itself is told in a note.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from alignment.core.config import Sharding, StageConfig
from alignment.core.errors import RecipeError
from recipes.stages import KINDS

SHIPPED = Path(__file__).parent / "accelerate"

# The keys of accelerate 1.15's ClusterConfig: those that are read, those that recipe and runner decide instead (with the value
# that asks for nothing), those that cannot be carried out here.
_READ = {
    "compute_environment", "distributed_type", "num_processes", "num_machines", "machine_rank", "main_process_ip",
    "main_process_port", "use_cpu", "mixed_precision", "fsdp_config", "deepspeed_config",
}  # fmt: skip
_UNUSED = {
    "debug": False, "downcast_bf16": "no", "enable_cpu_affinity": False, "fp16": False, "gpu_ids": "all",
    "main_training_function": "main", "rdzv_backend": "static", "same_network": True,
}  # fmt: skip
_REFUSED = {
    "fp8_config", "parallelism_config", "megatron_lm_config", "mpirun_config", "dynamo_config", "dynamo_backend", "tpu_name",
    "tpu_zone", "tpu_use_cluster", "tpu_use_sudo", "command_file", "commands", "tpu_vm", "tpu_env",
}  # fmt: skip
KEYS = _READ | _UNUSED.keys() | _REFUSED
_OFF = (None, False, "no", "NO", "none", "None", "", [], {})
_TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED")


@dataclass(frozen=True)
class Layout:
    """processes: in all; each machine runs `here` of them. device: `cpu` and `gpu` insist, `auto` takes GPUs where there are
    any. address, port: where machine 0 meets the others. notes: lines for the cell's log."""

    processes: int = 1
    sharding: Sharding = "none"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    machines: int = 1
    machine: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    notes: tuple[str, ...] = ()

    @property
    def here(self) -> int:
        return self.processes // self.machines


def with_layout(config: StageConfig, where: str) -> StageConfig:
    """The stage with the processes and the sharding that its accelerate file asks for. Raises RecipeError, naming the setting,
    for a file that cannot be carried out and for a kind of stage that one process carries out."""
    layout = read_layout(config, where)
    if layout.processes > 1 and not KINDS[config.kind].parallel:
        able = ", ".join(kind for kind, spec in KINDS.items() if spec.parallel)
        raise RecipeError(
            f"{where}.runtime",
            f"{layout.processes} processes for a stage of kind {config.kind}",
            f"one process; several carry out stages of kind {able}",
            "remove processes and accelerate from its runtime",
        )
    runtime = config.runtime.model_copy(update={"processes": layout.processes, "sharding": layout.sharding})
    config = config.model_copy(update={"runtime": runtime})
    try:  # what the stage demands of its number of processes
        type(config).model_validate(config.model_dump(exclude_unset=True))
    except ValidationError as error:
        message = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise RecipeError(f"{where}.runtime", message, "processes that all have work", "use fewer") from None
    return config


def read_layout(config: StageConfig, where: str) -> Layout:
    """What `config.runtime` says, with its accelerate file read. Raises RecipeError."""
    runtime = config.runtime
    if runtime.accelerate is None:
        return Layout(runtime.processes, runtime.sharding)
    path = _find(runtime.accelerate, f"{where}.runtime.accelerate")
    layout = _AccelerateFile(path).layout(getattr(config, "precision", None))
    for name, own, theirs in (
        ("processes", runtime.processes, layout.processes),
        ("sharding", runtime.sharding, layout.sharding),
    ):
        if name in runtime.model_fields_set and own != theirs:
            raise RecipeError(
                f"{where}.runtime.{name}", f"{own}, but {path.name} says {theirs}", "one answer", "remove one of them"
            )
    return layout


def _find(name: str, where: str) -> Path:
    expanded = Path(os.path.expandvars(name)).expanduser()
    for path in (expanded, SHIPPED / f"{name}.yaml", SHIPPED / name):
        if path.is_file():
            return path
    shipped = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    close = difflib.get_close_matches(Path(name).stem, shipped, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"shipped: {', '.join(shipped)}"
    raise RecipeError(where, f"no accelerate configuration {name!r}", "a file or the name of a shipped one", remedy)


class _AccelerateFile:
    """One file, and the errors that name it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            text = path.read_text(encoding="utf-8")
            raw = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            problem = str(error).splitlines()[0]
            raise RecipeError(self.where, f"cannot be read: {problem}", "YAML or JSON", "mend the file") from None
        if not isinstance(raw, dict):
            raise RecipeError(self.where, "not a mapping", "what `accelerate config` writes", "write it anew")
        self.raw: dict[str, Any] = raw
        self._check_keys()

    def layout(self, precision: str | None) -> Layout:
        kind = self._one_of("distributed_type", _TYPES)
        processes = self._count("num_processes", 1 if kind == "NO" else None)
        if kind == "NO" and processes != 1:
            raise self._wrong("num_processes", processes, "1 with distributed_type NO")
        use_cpu = kind == "MULTI_CPU" or bool(self.raw.get("use_cpu"))
        if use_cpu and kind in ("MULTI_GPU", "DEEPSPEED"):
            raise self._wrong("use_cpu", True, f"false with distributed_type {kind}")
        sharding, notes = self._sharding(kind)
        notes += [f"not used from {self.where}: {', '.join(unused)}"] if (unused := self._unused(kind)) else []
        mixed = self.raw.get("mixed_precision")
        if mixed not in _OFF and precision is not None and mixed != precision:
            notes.append(f"{self.where}: mixed_precision {mixed} is not used: the stage's own precision is {precision}")
        device = "cpu" if use_cpu else "auto" if kind == "NO" else "gpu"
        return Layout(processes, sharding, device, *self._machines(processes), notes=tuple(notes))

    def _machines(self, processes: int) -> tuple[int, int, str, int]:
        """How many machines, which of them this is, address and port of machine 0."""
        machines, machine = self._count("num_machines", 1), self._count("machine_rank", 0, least=0)
        if machines == 1:
            return 1, 0, "127.0.0.1", 0
        if machine >= machines:
            raise self._wrong("machine_rank", machine, f"0 to {machines - 1} with num_machines {machines}")
        if processes % machines:
            raise self._wrong("num_processes", processes, f"a multiple of num_machines {machines}")
        address = self.raw.get("main_process_ip")
        if not isinstance(address, str) or not address:
            raise self._wrong("main_process_ip", address, "the address of machine 0")
        return machines, machine, address, self._count("main_process_port")

    def _sharding(self, kind: str) -> tuple[Sharding, list[str]]:
        """What the processes divide, and what there is to say of it."""
        if kind == "FSDP":
            block = self._block("fsdp_config")
            if block.get("fsdp_version", 1) != 2:
                what, remedy = "fsdp_version 1", f"accelerate to-fsdp2 --config_file {self.where}"
                raise RecipeError(f"{self.where}: fsdp_config", what, "fsdp_version: 2", remedy)
            if block.get("fsdp_offload_params") not in _OFF:
                raise self._wrong("fsdp_config.fsdp_offload_params", True, "false: nothing is offloaded here")
            reshard = block.get("fsdp_reshard_after_forward", True)
            if not isinstance(reshard, bool):
                raise self._wrong(
                    "fsdp_config.fsdp_reshard_after_forward", reshard, "true or false with fsdp_version 2"
                )
            return ("full" if reshard else "gradients"), []
        if kind == "DEEPSPEED":
            block = self._block("deepspeed_config")
            for key in ("offload_optimizer_device", "offload_param_device", "deepspeed_config_file"):
                if block.get(key) not in _OFF:
                    raise self._wrong(f"deepspeed_config.{key}", block[key], "none: it cannot be carried out here")
            stages: dict[Any, Sharding] = {2: "gradients", 3: "full"}
            stage = block.get("zero_stage")
            if stage not in stages:
                raise self._wrong("deepspeed_config.zero_stage", stage, "2 or 3")
            return stages[stage], [f"ZeRO-{stage} is carried out by torch's fully_shard (FSDP2), not by DeepSpeed"]
        return "none", []

    def _unused(self, kind: str) -> list[str]:
        """Settings that are on and that the recipe, the stage or the runner decides instead."""
        unused = [key for key, default in _UNUSED.items() if self.raw.get(key) not in (*_OFF, default)]
        read = {"fsdp_version", "fsdp_reshard_after_forward", "zero_stage"}
        for name, owner in (("fsdp_config", "FSDP"), ("deepspeed_config", "DEEPSPEED")):
            block = self._block(name)
            unused += [key for key, value in block.items() if value not in _OFF and not (kind == owner and key in read)]
        return unused

    def _check_keys(self) -> None:
        for key in self.raw:
            if key not in KEYS:
                close = difflib.get_close_matches(str(key), KEYS, n=1)
                remedy = f"did you mean {close[0]}?" if close else "remove it"
                raise RecipeError(f"{self.where}: {key}", "unknown key", "a key of accelerate's configuration", remedy)
        for key in sorted(_REFUSED):
            if self.raw.get(key) not in _OFF:
                raise RecipeError(f"{self.where}: {key}", "cannot be carried out here", "no such key", "remove it")
        self._one_of("compute_environment", ("LOCAL_MACHINE",), "LOCAL_MACHINE")

    def _block(self, key: str) -> Mapping[str, Any]:
        block = self.raw.get(key) or {}
        if not isinstance(block, dict):
            raise self._wrong(key, block, "a mapping")
        return block

    def _one_of(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        value = self.raw.get(key, default)
        if value not in known:
            raise self._wrong(key, value, f"one of {', '.join(known)}")
        return str(value)

    def _count(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.raw.get(key, default)
        if type(value) is not int or value < least:
            raise self._wrong(key, value, f"a whole number of {least} or more")
        return value

    def _wrong(self, key: str, value: object, expected: str) -> RecipeError:
        return RecipeError(f"{self.where}: {key}", f"not valid: got {value!r}", expected, "correct the value")
