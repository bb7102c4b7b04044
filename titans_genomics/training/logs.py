"""Where the curves of a training run go: metrics.csv always, Weights & Biases when it is there and works."""

from __future__ import annotations

import csv
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from titans_genomics import __version__
from titans_genomics.config import Config
from titans_genomics.files import replacing

FIXED = (
    "step",
    "tokens",
    "loss",
    "bits_per_base",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "skipped",
    "val_loss",
    "val_bits_per_base",
)
"""Columns of every metrics.csv; the model's own statistics (alpha/0, surprise/0, ...) follow."""


def say(text: str) -> None:
    """One line for the person who waits, over a live progress line if there is one."""
    live = sys.stderr.isatty()
    print(f"\r\x1b[K{text}" if live else text, file=sys.stderr, flush=True)


class Metrics:
    """metrics.csv: one row per logged step, flushed at once; rows after ``step`` (of a killed process) are dropped at the start.

    Parameters
    ----------
    path : Path
        The file.
    step : int
        Optimiser step at which training goes on; 0 starts a new file.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._columns: list[str] | None = None
        if not step or not path.is_file():
            path.unlink(missing_ok=True)
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values() and int(row["step"]) <= step]
            self._columns = list(reader.fieldnames or FIXED)
        with replacing(path) as temporary:
            self._write(temporary, rows, header=True)

    def log(self, row: dict[str, float]) -> None:
        """Append a row; what it lacks stays empty."""
        new = self._columns is None
        if self._columns is None:
            self._columns = [*FIXED, *sorted((k for k in row if k not in FIXED), key=_natural)]
        self._write(self.path, [row], header=new)

    def _write(self, path: Path, rows: list[Any], header: bool) -> None:
        assert self._columns is not None
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
            if header:
                writer.writeheader()
            writer.writerows({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def _natural(name: str) -> tuple[str, int]:
    """alpha/2 before alpha/10."""
    head, _, tail = name.rpartition("/")
    return (head, int(tail)) if tail.isdigit() else (name, 0)


class Wandb:
    """A W&B run that can fail without consequence: the first error switches it off, with one line that says so.

    Parameters
    ----------
    config : Config
        The whole run.
    name : str
        What is trained.
    out : Path
        Folder in which ``wandb/`` is made.
    group, job : str
        W&B's group of runs (default: the run's name) and type of job.
    kept : str
        The file that has everything when W&B fails.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        out: Path,
        group: str | None = None,
        job: str = "train",
        kept: str = "metrics.csv",
    ) -> None:
        self._run: Any = None
        self._kept = kept
        settings = config.train.wandb
        if settings.mode == "disabled":
            return
        try:
            # Neither prompts nor chatter, and nothing outside the run's own folder.
            os.environ.setdefault("WANDB_SILENT", "true")
            for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
                os.environ.setdefault(variable, str((out / "wandb").resolve()))
            (out / "wandb").mkdir(parents=True, exist_ok=True)
            import wandb

            self._run = wandb.init(
                name=f"{group or config.run}-{name}",
                group=group or config.run,
                dir=str(out),
                mode=settings.mode,
                project=settings.project,
                entity=settings.entity,
                tags=list(settings.tags),
                job_type=job,
                config={**config.model_dump(mode="json"), "model_name": name},
                settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
            )
        except Exception as error:
            self._off(error)

    def log(self, row: dict[str, float], step: int) -> None:
        """Send a row."""
        if self._run is not None:
            try:
                self._run.log(row, step=step)
            except Exception as error:
                self._off(error)

    def artifact(self, name: str, kind: str, path: Path, metadata: dict[str, Any]) -> None:
        """Record a file or folder by reference: its place and description, not a copy of its bytes."""
        if self._run is not None:
            try:
                import wandb

                artifact = wandb.Artifact(name, kind, metadata=metadata)
                artifact.add_reference(path.resolve().as_uri(), checksum=False)
                self._run.log_artifact(artifact)
            except Exception as error:
                self._off(error)

    def finish(self) -> None:
        """Close the run."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._off(error)
            self._run = None

    def _off(self, error: Exception) -> None:
        self._run = None
        lines = str(error).strip().splitlines()
        say(
            f"W&B is off ({type(error).__name__}: {lines[0] if lines else 'no reason given'}); {self._kept} has everything"
        )


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {"titans_genomics": __version__, "python": platform.python_version(), "torch": torch.__version__}


def hardware() -> dict[str, Any]:
    """The machine, in words and numbers."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
