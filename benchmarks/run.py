"""Run the plan, every measurement in a fresh process, and keep each result at once, so that a stopped run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, describe
from benchmarks.plan import ALLOCATORS, Group

LIMIT = 900  # seconds after which one measurement is given up


def measure(spec: dict[str, Any], allocator: str, threads: int) -> dict[str, Any]:
    """One measurement in a process of its own; "error" where there is no figure."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    env = {**clean, **ALLOCATORS[allocator], "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    return in_own_process("benchmarks.measure", spec, env, LIMIT)


def in_own_process(module: str, spec: dict[str, Any], env: dict[str, str], limit: int) -> dict[str, Any]:
    """What ``python -m module SPEC`` prints last, as JSON; "error" where there is no figure within ``limit`` seconds."""
    command = [sys.executable, "-m", module, json.dumps(spec)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit, preexec_fn=first_to_die
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit} s"}
    if done.returncode < 0:
        return {"error": f"killed by signal {-done.returncode}, most likely for want of memory"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def taken(measurement: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a measurement found, with the seconds that all of it took, the load before it, the commit and the time of day."""
    load, start = os.getloadavg()[0], time.perf_counter()
    found = measurement()
    took = round(time.perf_counter() - start, 2)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return {**found, "took_s": took, "load_before": load, "commit": commit(), "at": now}


def first_to_die() -> None:
    """Where memory runs out, the measurement is what the system ends, not a neighbour."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def run(
    plan: list[Group], path: Path, threads: int, resume: bool, say: Callable[[str], None] = lambda line: print(line)
) -> dict[str, Any]:
    """Measure every group of the plan; results of other groups already in the file stay.

    With `resume`, measurements that the file holds are not repeated, those that failed are.
    """
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    names = {group.name for group in plan}
    results["runs"] = [r for r in results["runs"] if r["group"] not in names or (resume and "error" not in r)]
    results["machine"] = describe(threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    for group in plan:
        for allocator in group.allocators:
            sides = group.sides or (group.spec["kind"],)
            for number in range(group.rounds):
                for side in sides:
                    before = [
                        r
                        for r in results["runs"]
                        if (r["group"], r["allocator"], r["side"]) == (group.name, allocator, side)
                    ]
                    if any(r["round"] == number for r in before):
                        continue
                    if sum(r["took_s"] for r in before) > group.patience or any("error" in r for r in before):
                        continue
                    found = taken(partial(measure, {**group.spec, "side": side}, allocator, threads))
                    where = {"group": group.name, "side": side, "allocator": allocator, "round": number}
                    record = {**where, "spec": group.spec, **found}
                    results["runs"].append(record)
                    keep(results, path)
                    say(line(record))
    return results


def line(record: dict[str, Any]) -> str:
    """What the terminal shows of a measurement."""
    speed = record.get("tokens_per_s")
    if "error" in record:
        figure = "no figure: " + record["error"]
    elif speed is None:
        figure = "measured"
    else:
        figure = f"{speed:,.0f} tokens/s, peak {record['peak_mb']:,.0f} MB"
        if not record["finite"]:
            figure += ", NOT FINITE"
        elif not record.get("finite_gradients", True):
            figure += ", gradients not finite"
    where = f"{record['group']} | {record['side']} | {record['allocator']} | round {record['round'] + 1}"
    return f"{record['at'][11:]} {where}: {figure} ({record['took_s']:.0f} s)"


def keep(results: dict[str, Any], path: Path) -> None:
    """Write all or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)
