"""What is read of lm-eval's files: the fields of `results_*.json` and of a line of `samples_*.jsonl` (0.4.13)."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# arguments that say which model, where from and on what machine, not how it is measured; dtype is told by itself
_WHICH_MODEL = {
    "pretrained", "model", "revision", "subfolder", "peft", "delta", "tokenizer", "gguf_file", "base_url", "device",
    "device_map", "device_map_option", "parallelize", "max_memory_per_gpu", "max_cpu_memory", "offload_folder",
    "tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "swap_space", "num_concurrent", "cache_dir",
    "token", "trust_remote_code", "dtype",
}  # fmt: skip


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, protected_namespaces=())


class RunConfig(_Read):
    """model: the backend, such as `hf` or `vllm`."""

    model: str
    model_args: str | dict[str, Any] | None = None
    model_dtype: str | None = None
    limit: float | None = None
    batch_size: str | int | None = None
    torch_seed: int | None = None
    fewshot_seed: int | None = None

    @property
    def arguments(self) -> dict[str, str]:
        if isinstance(self.model_args, str):
            parts = [part.partition("=") for part in self.model_args.split(",") if part]
            return {name.strip(): value.strip() for name, _, value in parts}
        return {name: str(value) for name, value in (self.model_args or {}).items()}

    @property
    def dtype(self) -> str | None:
        name = (self.model_dtype or self.arguments.get("dtype") or "").removeprefix("torch.")
        return _DTYPES.get(name, name) or None


class TaskConfig(_Read):
    output_type: str
    generation_kwargs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class Counted(_Read):
    """effective: documents that were asked."""

    effective: int


class Results(_Read):
    results: dict[str, dict[str, Any]]
    configs: dict[str, TaskConfig]
    versions: dict[str, Any]
    n_shot: dict[str, int | None] = Field({}, alias="n-shot")
    n_samples: dict[str, Counted] = Field(alias="n-samples")
    higher_is_better: dict[str, dict[str, bool | None]] = {}
    group_subtasks: dict[str, list[str]] = {}
    config: RunConfig
    lm_eval_version: str
    model_name: str
    max_length: int | None = None
    chat_template_sha: str | None = None
    system_instruction_sha: str | None = None
    fewshot_as_multiturn: bool | None = None
    task_hashes: dict[str, str] = {}

    @model_validator(mode="after")
    def _every_task_is_configured(self) -> Results:
        if missing := [task for task in self.n_samples if task not in self.configs]:
            raise ValueError(f"no configuration of task {missing[0]}")
        return self

    def settings(self, task: str) -> dict[str, Any]:
        """What else the task's scores depend on, by name."""
        config, shots = self.configs[task], self.n_shot.get(task)
        found: dict[str, Any] = {"lm-eval": self.lm_eval_version, "limit": self.config.limit, "shots": shots}
        found |= {name: value for name, value in sorted(self.config.arguments.items()) if name not in _WHICH_MODEL}
        if self.system_instruction_sha:
            found["system instruction"] = self.system_instruction_sha
        if shots:
            found |= {"seed of shots": self.config.fewshot_seed, "shots as turns": self.fewshot_as_multiturn}
        if config.output_type == "generate_until":
            found["generation"] = json.dumps(config.generation_kwargs, sort_keys=True)
            if config.generation_kwargs.get("do_sample"):
                found |= {"batch size": self.config.batch_size, "seed": self.config.torch_seed}
        return found


class Sample(BaseModel):
    """One document under one filter. A metric's value is a field of its own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    doc_id: int = Field(ge=0, lt=2**63)
    doc: Any
    target: str
    arguments: dict[str, dict[str, Any]] = Field(min_length=1)
    filtered_resps: list[Any]
    filter: str
    metrics: list[str] = Field(min_length=1)
    doc_hash: str
    prompt_hash: str
    target_hash: str

    @model_validator(mode="after")
    def _complete(self) -> Sample:
        if missing := [name for name in self.metrics if self.value(name) is None]:
            raise ValueError(f"no value of metric {missing[0]}")
        if not all(self.arguments.values()):
            raise ValueError("a request without arguments")
        if len(self.filtered_resps) != len(self.arguments):
            raise ValueError(f"{len(self.filtered_resps)} responses to {len(self.arguments)} requests")
        return self

    def value(self, metric: str) -> Any:
        return (self.model_extra or {}).get(metric)

    @property
    def requests(self) -> list[list[Any]]:
        """Context and continuation (or decoding settings) of every request."""
        return [list(request.values()) for request in self.arguments.values()]

    @property
    def choices(self) -> int:
        """How many choices there were; mutual information asks for each of them twice."""
        return len(self.arguments) // (2 if "acc_mutual_info" in self.metrics else 1) or 1
