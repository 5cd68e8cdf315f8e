"""The README beside PPO promises eighteen details, each with the function that does it."""

import importlib
import re
from pathlib import Path

import yaml

import alignment.ppo
from alignment.ppo.config import PPOConfig

TEXT = (Path(alignment.ppo.__file__).parent / "README.md").read_text()
NAMED = re.compile(
    r"`(maths|rollout|update|stage|networks|arrangements|optimizer|packing|ptx|scores|learner|checkpoint|sync)\.(\w+)`"
)


def test_the_eighteen_details_are_numbered_and_each_names_a_function_or_is_fixed():
    items = re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", TEXT, re.MULTILINE)
    assert [int(number) for number, _ in items] == list(range(1, 19))
    for number, text in items:
        assert NAMED.search(text) or "](../" in text or "Fixed" in text, f"detail {number} names nothing"


def test_every_function_and_file_that_it_names_exists():
    named = NAMED.findall("\n".join(line for line in TEXT.splitlines() if not line.startswith("|")))  # tables: options
    assert len(named) > 20
    for module, name in named:
        if name != "py":
            assert hasattr(importlib.import_module(f"alignment.ppo.{module}"), name), f"{module}.{name}"
    for path in re.findall(r"\]\(([\w./]+)\)", TEXT):
        assert (Path(alignment.ppo.__file__).parent / path).exists(), path


def test_the_example_in_the_main_readme_is_accepted():
    text = (Path(alignment.ppo.__file__).parents[2] / "README.md").read_text()
    example = re.search(r"```yaml\n(ppo:\n.*?)```", text, re.DOTALL)
    assert example is not None
    PPOConfig.model_validate(yaml.safe_load(example[1])["ppo"])
