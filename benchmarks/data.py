"""`python -m benchmarks.data`: sequence files to tokens and tokens to windows, beside other ways to do the same.

python -m benchmarks.data                       everything; about half an hour on two cores, 7 GB of disk
python -m benchmarks.data --quick               small sizes, some minutes
python -m benchmarks.data --only fasta,real      groups whose names begin so
python -m benchmarks.data --resume              go on with a run that was stopped
python -m benchmarks.data --list                the groups
python -m benchmarks.data --table               only print the tables of the results file
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.data_files import Facts, Files, Sizes
from benchmarks.data_table import render
from benchmarks.machine import describe, installed
from benchmarks.run import in_own_process, keep, taken
from benchmarks.table import put_between
from titans_genomics.progress import quantity

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("biopython", "isal", "lightning", "numba", "pyarrow", "pysam", "tokenizers", "transformers")
LIMIT = 3_600  # seconds after which one measurement is given up
QUICK = Sizes(
    genome=8_000_000,
    slice=200_000,
    packed=4_000_000,
    reads=20_000,
    windows=2_000,
    steps=4,
    large=48_000_000,
    rounds=1,
)


class Group(NamedTuple):
    """Sides that are measured in turn (A B C A B C ...), each time in a process of its own.

    Attributes
    ----------
    name : str
    sides : side -> the file that it reads (`data_files.Files`)
    store : the file whose token store the sides read, made beforehand; None where they write one, or need none
    rounds : most rounds; None: as many as `Sizes` says
    patience : a side whose measurements took longer than this many seconds together is not measured again
    repeat : how often the work is done in one process, for what takes no time
    disk : bytes of disk per base of the file, where that is worth a look beforehand
    """

    name: str
    sides: dict[str, str]
    store: str | None = None
    rounds: int | None = None
    patience: float = 240.0
    repeat: int = 1
    disk: float = 0.0


def groups() -> list[Group]:
    """Everything, in the order in which it runs."""
    stores = ("store, gate off", "store, gate on")
    windows = (
        "Run.windows",
        "TrainWindows",
        "TrainWindows, half turned",
        "np.array(memmap)",
        "np.array(memmap), int64 tensors",
    )
    bam = (*stores, "pysam.AlignmentFile")
    bgzip = ("store, 1 thread", "store, gate off", "read_blocks, 1 thread", "read_blocks", "pysam.BGZFile")
    train = ("training, its loader", "training, one batch", "the loader alone")
    fasta = dict.fromkeys((*stores, "pysam.FastxFile", "Hugging Face characters (Rust)"), "genome")
    return [
        Group("fasta", fasta | {"Hugging Face characters (Python)": "slice"}),
        Group("gzip", dict.fromkeys(("store, gate off", "gzip.open", "isal igzip"), "gzip")),
        Group("bgzip", dict.fromkeys(bgzip, "bgzip")),
        Group("real bam", dict.fromkeys(bam, "sirv"), repeat=5),
        Group("synthetic bam", dict.fromkeys(bam, "bam")),
        Group("windows of a genome", dict.fromkeys(windows, "genome"), store="genome", repeat=3),
        Group("windows of reads", dict.fromkeys(windows, "bam"), store="bam", repeat=3),
        Group("training", dict.fromkeys(train, "genome"), store="genome", rounds=5),
        Group("large", dict.fromkeys((*stores, "open"), "large"), rounds=1, disk=2.15),
    ]


# ------------------------------------------------------------------------------------------- measure


def measure(spec: dict[str, Any], threads: int) -> dict[str, Any]:
    """One measurement in a process of its own; "error" where there is no figure."""
    own = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    env = os.environ | own | {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    return in_own_process("benchmarks.data_measure", {**spec, "threads": threads}, env, LIMIT)


def checked(found: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """The measurement, or the error that something else came out than is in the file."""
    wrong = [key for key in found.keys() & facts.keys() if found[key] != facts[key] and key != "amount"]
    if wrong:
        key = min(wrong)
        return {"error": f"other {key} than in the file: {found[key]}, not {facts[key]}"}
    return found


class Bench:
    """Runs groups in a scratch folder and keeps every result at once, so that a stopped run goes on.

    Parameters
    ----------
    sizes, scratch, threads
        How much, where, with how many threads.
    path
        The results file; results of other groups in it stay.
    say
        Where lines for the terminal go.
    """

    def __init__(self, sizes: Sizes, scratch: Path, threads: int, path: Path, say: Callable[[str], None]) -> None:
        self.sizes, self.scratch, self.threads, self.path, self.say = sizes, scratch, threads, path, say
        self.files = Files(scratch, sizes)
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"runs": []}
        self.results["machine"] = describe(threads)
        self.results["machine"]["versions"] |= {package: installed(package) for package in PACKAGES}
        self.results["sizes"] = sizes._asdict()

    def run(self, plan: list[Group], resume: bool) -> dict[str, Any]:
        """Measure every group of the plan. With `resume` measurements that the file holds are not repeated."""
        names = {group.name for group in plan}
        runs = self.results["runs"]
        self.results["runs"] = [r for r in runs if r["group"] not in names or (resume and "error" not in r)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for group in plan:
            self._group(group)
        return self.results

    def _group(self, group: Group) -> None:
        out = self.scratch / "store"
        missing = self._missing_disk(group)
        for number in range(group.rounds if group.rounds and self.sizes.rounds > 1 else self.sizes.rounds):
            for side, file in group.sides.items():
                before = [r for r in self.results["runs"] if (r["group"], r["side"]) == (group.name, side)]
                if any(r["round"] == number or "error" in r for r in before):
                    continue
                if sum(r["took_s"] for r in before) > group.patience:
                    continue
                where = {"group": group.name, "side": side, "round": number}
                if missing:
                    record = {**where, **taken(lambda: {"error": missing})}
                else:
                    store = self._store(group.store) if group.store else out
                    spec, facts = self._spec(side, file, store, group.repeat)
                    found = taken(partial(self._measured, spec, facts))
                    record = {**where, "longest": facts.get("longest"), **found}
                self.results["runs"].append(record)
                keep(self.results, self.path)
                self.say(line(record))
        shutil.rmtree(out, ignore_errors=True)
        if group.disk:
            for file in group.sides.values():
                self.files.drop(file)

    def _measured(self, spec: dict[str, Any], facts: Facts) -> dict[str, Any]:
        return checked({"amount": facts["amount"]} | measure(spec, self.threads), facts)

    def _missing_disk(self, group: Group) -> str:
        """Why a group cannot run here, or nothing."""
        if not group.disk:
            return ""
        needed, free = group.disk * self.sizes.large, shutil.disk_usage(self.scratch).free
        self.say(f"{group.name}: needs {needed / 1e9:.1f} GB of disk in {self.scratch}, {free / 1e9:.1f} GB are free")
        return "" if needed < free else "not enough disk; name another folder with --scratch"

    def _spec(self, side: str, file: str, store: Path, repeat: int) -> tuple[dict[str, Any], Facts]:
        path, facts = self.files.get(file)
        spec = {
            "side": side,
            "file": str(path),
            "warm": str(self.files.get(f"warm{path.suffix}")[0]),
            "block": min(65_536, max(1_000, facts["bases"] // 200)),
            "store": str(store),
            "repeat": repeat,
            "windows": self.sizes.windows,
            "steps": self.sizes.steps,
        }
        return spec, facts

    def _store(self, file: str) -> Path:
        """The token store of a file, made when it is first asked for."""
        path = self.scratch / f"{file}.store"
        if not path.is_dir():
            spec, facts = self._spec("store, gate off", file, path, 1)
            found = checked(measure(spec, self.threads), facts)
            if "error" in found:
                raise SystemExit(f"benchmarks.data: the token store of {spec['file']}: {found['error']}")
        return path


def line(record: dict[str, Any]) -> str:
    """What the terminal shows of a measurement."""
    if "error" in record:
        figure = "no figure: " + record["error"]
    elif "open_ms" in record:
        figure = f"{record['open_ms']:.1f} ms, first window {record['first_window_ms']:.0f} ms later"
    else:
        figure = f"{quantity(record['amount'] / record['seconds'])} a second, peak {record['peak_mb']:,.0f} MB"
    where = f"{record['group']} | {record['side']} | round {record['round'] + 1}"
    return f"{record['at'][11:]} {where}: {figure} ({record['took_s']:.0f} s)"


# ---------------------------------------------------------------------------------------------- main


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.data", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--only", default="", help="comma-separated beginnings of group names")
    parser.add_argument("--resume", action="store_true", help="keep measurements that the results file holds")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every side that has several")
    parser.add_argument("--scratch", type=Path, help="where the files are made, and removed (default: benchmarks)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/data.json)")
    parser.add_argument("--list", action="store_true", help="print the groups and stop")
    parser.add_argument("--table", action="store_true", help="print the tables of the results file and stop")
    parser.add_argument("--into", type=Path, help="also put the tables between the data marks of this Markdown file")
    chosen = parser.parse_args(arguments)
    path = chosen.out or RESULTS / f"data{'-quick' if chosen.quick else ''}.json"
    starts = tuple(part.strip() for part in chosen.only.split(","))
    plan = [group for group in groups() if group.name.startswith(starts)]
    if not plan:
        parser.error(f"--only {chosen.only}: no group begins so; --list shows them")
    if chosen.list:
        for group in plan:
            print(f"{group.name}: {'; '.join(group.sides)}")
        return
    if chosen.table and not path.is_file():
        parser.error(f"{path}: no results yet")
    if chosen.table:
        results = json.loads(path.read_text())
    else:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the scratch folder goes
        parent = chosen.scratch or Path(__file__).parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=parent) as scratch:
            (Path(scratch) / ".gitignore").write_text("*\n")
            sizes = QUICK if chosen.quick else Sizes()
            bench = Bench(sizes, Path(scratch), chosen.threads, path, lambda text: print(text, flush=True))
            results = bench.run(plan, chosen.resume)
        signal.signal(signal.SIGTERM, before)
    tables = render(results)
    print(tables)
    if chosen.into:
        try:
            put_between(chosen.into, "data", tables)
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
