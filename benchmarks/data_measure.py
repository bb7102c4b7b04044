"""One measurement of the data layer in a process of its own: `python -m benchmarks.data_measure '{"side": ..., "file": ...}'`.

Prints one line of JSON: seconds, processor seconds, memory, and counts and checksums of what came out, taken off the clock.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data_stores, data_windows
from benchmarks.data_task import Memory, Spec, Task

SIDES: dict[str, Callable[[Spec], Task]] = {
    "store, gate off": partial(data_stores.to_store, action="off"),
    "store, gate on": partial(data_stores.to_store, action="report"),
    "store, 1 thread": partial(data_stores.to_store, action="off", threads=1),
    "Hugging Face characters (Rust)": data_stores.rust_characters,
    "Hugging Face characters (Python)": data_stores.python_characters,
    "pysam.FastxFile": data_stores.fastx,
    "pysam.AlignmentFile": data_stores.alignments,
    "gzip.open": partial(data_stores.decompress, data_stores.gzip_blocks),
    "isal igzip": partial(data_stores.decompress, data_stores.igzip_blocks),
    "pysam.BGZFile": partial(data_stores.decompress, data_stores.htslib_blocks),
    "read_blocks": partial(data_stores.decompress, partial(data_stores.our_blocks, threads=2)),
    "read_blocks, 1 thread": partial(data_stores.decompress, partial(data_stores.our_blocks, threads=1)),
    "Run.windows": data_windows.in_batches,
    "TrainWindows": partial(data_windows.items, reverse_complement=0.0),
    "TrainWindows, half turned": partial(data_windows.items, reverse_complement=0.5),
    "np.array(memmap)": partial(data_windows.copies, tensors=False),
    "np.array(memmap), int64 tensors": partial(data_windows.copies, tensors=True),
    "training, its loader": partial(data_windows.training, real=True),
    "training, one batch": partial(data_windows.training, real=False),
    "the loader alone": data_windows.loader_alone,
    "open": data_windows.opening,
}
READS_ONCE = ("training, its loader", "training, one batch", "open")
"""Sides whose work can be done once per process, or must find it fresh."""


def measure(spec: Spec) -> dict[str, Any]:
    """Warm up on a small file, read the file once, then take the time of ``spec["repeat"]`` runs."""
    build = SIDES[spec["side"]]
    once = spec["side"] in READS_ONCE
    if not once:
        build({**spec, "file": spec["warm"], "block": 1_000, "windows": 1}).work()
    with Path(spec["file"]).open("rb", buffering=0) as handle:
        buffer = bytearray(1 << 22)
        while handle.readinto(buffer):
            pass
    taken, processor = [], []
    with Memory() as memory:
        for _ in range(1 if once else spec["repeat"]):
            task = build(spec)
            os.sync()  # what others left to be written
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            result = task.work()
            taken.append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_SELF)
            processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    figures = {
        "seconds": statistics.median(taken),
        "processor_s": statistics.median(processor),
        "peak_mb": memory.peak,
        "anonymous_mb": memory.anonymous,
        "baseline_mb": memory.baseline,
    }
    return figures | task.check(result)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
