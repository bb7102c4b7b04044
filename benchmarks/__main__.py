"""`python -m benchmarks`: run the plan and print its tables.

python -m benchmarks                        everything, about 25 minutes on two cores
python -m benchmarks --quick                small sizes, about 3 minutes
python -m benchmarks --only MAC,decode      groups whose names begin so
python -m benchmarks --resume               go on with a run that was stopped
python -m benchmarks --list                 the groups
python -m benchmarks --table                only print the tables of the results file
python -m benchmarks text --help            whole models: prompts, decoding and memory by length
python -m benchmarks use --help             a trained model at work, beside the plain way to the same numbers
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from benchmarks.machine import processor
from benchmarks.plan import groups
from benchmarks.run import run
from benchmarks.table import put_between, render


def results_file(quick: bool) -> Path:
    """One file per machine."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{processor()} {os.cpu_count()} cores".lower()).strip("-")
    return Path(__file__).parent / "results" / f"{name}{'-quick' if quick else ''}.json"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--only", default="", help="comma-separated beginnings of group names")
    parser.add_argument("--resume", action="store_true", help="keep measurements that the results file holds")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of every side (default: all cores)"
    )
    parser.add_argument("--out", type=Path, help="results file (default: one per machine in benchmarks/results)")
    parser.add_argument("--list", action="store_true", help="print the groups and stop")
    parser.add_argument("--table", action="store_true", help="print the tables of the results file and stop")
    parser.add_argument("--into", type=Path, help="also put the tables between the results marks of this Markdown file")
    chosen = parser.parse_args(arguments)
    path = chosen.out or results_file(chosen.quick)
    plan = groups(chosen.quick)
    if chosen.only:
        starts = tuple(part.strip() for part in chosen.only.split(","))
        plan = [group for group in plan if group.name.startswith(starts)]
        if not plan:
            parser.error(f"--only {chosen.only}: no group begins so; --list shows them")
    if chosen.list:
        for group in plan:
            print(f"{group.name}: {', '.join(group.sides)} {json.dumps(group.spec)}")
        return
    if chosen.table and not path.is_file():
        parser.error(f"{path}: no results yet")
    results = json.loads(path.read_text()) if chosen.table else run(plan, path, chosen.threads, chosen.resume)
    tables = render(results)
    print(tables)
    if chosen.into:
        try:
            put_between(chosen.into, "results", tables)
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    if sys.argv[1:2] == ["text"]:
        from benchmarks.text import main as text

        text(sys.argv[2:])
    elif sys.argv[1:2] == ["use"]:
        from benchmarks.use import main as use

        use(sys.argv[2:])
    else:
        main()
