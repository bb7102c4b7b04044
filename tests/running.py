"""Snakemake on the repository's workflow, and what it said."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def snakemake(folder, *arguments, config=None, check=True):
    """Run Snakemake in ``folder``, with the repository's Snakefile; returns all that it said."""
    command = [BIN / "snakemake", *arguments, "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    if config:
        command += ["--configfile", config]  # last: it takes for files what stands behind it
    environment = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if check:
        assert done.returncode == 0, said
    else:
        assert done.returncode != 0, said
    return said


def ran(said):
    """The rules that were executed, settings and all left out."""
    return set(re.findall(r"^(?:local)?rule (\w+):$", said, re.M)) - {"settings", "all"}


def jobs(said, rule):
    """The jobs of a rule: of each its wildcards and resources."""
    blocks = re.findall(rf"^(?:local)?rule {rule}:\n((?:    .*\n)+)", said, re.M)
    return [dict(re.findall(r"(\w+)=([^,\n]+)", block)) | {"text": block} for block in blocks]
