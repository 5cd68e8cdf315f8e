"""Running the command `align` as a user does: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALIGN = Path(sys.executable).with_name("align")


@pytest.fixture(scope="session")
def align():
    """`align(*words, cwd=...)` -> the completed process, its output as text."""

    def run(*words, cwd, timeout=600, **env):
        done = subprocess.run(
            [ALIGN, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=timeout, env=os.environ | env
        )
        return done

    return run
