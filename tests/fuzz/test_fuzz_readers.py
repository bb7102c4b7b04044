"""The fuzzer runs, for some seconds, and finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="on Linux only")


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False], ids=["kernels compiled", "kernels as Python"])
def test_the_fuzzer_finds_nothing(tmp_path, compiled):
    script = Path(__file__).with_name("fuzz_readers.py")
    options = ["-max_total_time=20", "-verbosity=1", f"-artifact_prefix={tmp_path}/"]
    environment = os.environ | ({} if compiled else {"NUMBA_DISABLE_JIT": "1"})
    command = [sys.executable, str(script), str(tmp_path / "corpus"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "corpus").iterdir())) > 20, "nothing new was reached"
