"""What a measurement of the data layer is made of: work, a look at what it gave, and memory meanwhile."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from titans_genomics.config import Config, parse_config

NAME = "source"

Spec = dict[str, Any]


class Task(NamedTuple):
    """What is timed, and what is looked at of its result when the time is taken.

    `check` may give its own figures too: those stand in the results as they are.
    """

    work: Callable[[], Any]
    check: Callable[[Any], dict[str, Any]]


def config(file: str, block: int, action: str = "off", **more: Any) -> Config:
    """The package's defaults for one file."""
    split = {"block": block, "leaks": {"action": action}}
    data = {"sources": [{"path": file, "name": NAME}], "reads": {"min_length": 1}, "split": split}
    return parse_config({"run": "benchmark", "data": data, **more}, "benchmark")


def status(*names: str) -> list[float | None]:
    """Figures of /proc/self/status, MB; None where there is none."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:
        return [None] * len(names)
    return [int(lines[name].split()[0]) * 1.024e-3 if name in lines else None for name in names]


class Memory:
    """Peaks of resident memory while the block runs, MB: all of it, and what no file stands behind (sampled)."""

    def __enter__(self) -> Memory:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self.baseline = status("VmRSS")[0]
        self.anonymous = status("RssAnon")[0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = status("VmHWM")[0]
        if self.peak is None:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            self.peak = most / (1e6 if sys.platform == "darwin" else 1e3)

    def _watch(self) -> None:
        while self.anonymous is not None and not self._stop.wait(0.02):
            self.anonymous = max(self.anonymous, status("RssAnon")[0] or 0.0)
