"""`python -m benchmarks use`: what a trained model is used for, beside the plain way to the same numbers; needs results/default (`make run`).

python -m benchmarks use                          everything; about a quarter of an hour on two cores
python -m benchmarks use --quick                  small sizes, to see that all of it runs
python -m benchmarks use --only variants,embed    groups whose names begin so
python -m benchmarks use --megabases 1,70         lengths of the genomes whose reading `track` needs memory for
python -m benchmarks use --resume                 go on with a run that was stopped
python -m benchmarks use --list                   the groups
python -m benchmarks use --table                  only print the tables of the results file

Every measurement is a process of its own, sides of a group take turns; the work is done once on a little input before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import ROOT, describe, installed
from benchmarks.run import in_own_process, keep, taken
from benchmarks.table import put_between
from benchmarks.use_table import PLAIN, SUBSTITUTIONS, figure, render

RESULTS = Path(__file__).parent / "results" / "use.json"
RUN = ROOT / "results" / "default"
PACKAGES = ("numba", "pyarrow", "pybigtools", "pysam")
LIMIT = 3_600  # seconds after which one measurement is given up


class Sizes(NamedTuple):
    """What is measured.

    Attributes
    ----------
    context : bases of the windows of variants
    variants, part : natural variants, and how many of them the plain way reads
    spread : distance and number of variants that are spread evenly
    spread_part : how many of those the plain way reads
    locus : bases whose substitutions are all scored
    bases : of the genome that `track` and `memorize` read
    megabases : lengths of the genomes whose reading `track` needs memory for
    sequences, length : what `embed` reads
    short, near, far : bases that `generate` makes: of sequences side by side, and of one
    rounds : of `track` beside the plain forward pass, whose aim is near
    """

    context: int = 8_192
    variants: int = 1_000
    part: int = 60
    spread: tuple[tuple[int, int], ...] = ((100, 400), (1_000, 200), (10_000, 60), (100_000, 40))
    spread_part: int = 20
    locus: int = 60
    bases: int = 500_000
    megabases: tuple[float, ...] = (1, 4, 16)
    sequences: int = 1_000
    length: int = 1_000
    short: int = 2_000
    near: int = 10_000
    far: int = 200_000
    rounds: int = 3


QUICK = Sizes(
    context=2_048,
    variants=20,
    part=4,
    spread=((100, 20), (100_000, 4)),
    spread_part=2,
    locus=6,
    bases=40_000,
    megabases=(0.05, 0.1),
    sequences=30,
    short=200,
    near=300,
    far=1_500,
    rounds=1,
)


class Group(NamedTuple):
    """Sides that are measured in turn (A B A B ...).

    Attributes
    ----------
    name, unit : str
        ``unit`` is what is counted.
    sides : tuple of str
        Of `use_measure.SIDES`.
    spec : dict
        What each of them is given; ``spec["warm"]`` replaces a part of it before the clock runs.
    rounds : int
    """

    name: str
    unit: str
    sides: tuple[str, ...]
    spec: dict[str, Any]
    rounds: int = 1


def groups(sizes: Sizes) -> list[Group]:
    """Everything, in the order in which it runs."""

    def variants(name: str, own: str, ours: str, count: int, part: int) -> Group:
        unit = "substitutions" if own == SUBSTITUTIONS else "variants"
        warm = {"count": 3, "part": 1}
        spec = {"set": own, "count": count, "part": part, "context": sizes.context, "warm": warm}
        return Group(f"variants, {name}", unit, (ours, PLAIN), spec)

    def generated(count: int, length: int) -> Group:
        spec = {"count": count, "length": length, "warm": {"length": 8}}
        return Group(f"generate, {count} x {length:,}", "bases", ("generate",), spec)

    reading = {"bases": sizes.bases, "warm": {"bases": 4_096}}
    return [
        variants("natural", "natural", "score-variants", sizes.variants, sizes.part),
        *(
            variants(f"1 in {every:,} bases", str(every), "score-variants", count, sizes.spread_part)
            for every, count in sizes.spread
        ),
        variants("all of a locus", SUBSTITUTIONS, "saturate", 3 * sizes.locus, sizes.spread_part),
        Group("track", "bases", ("track", "plain forward pass"), reading, sizes.rounds),
        Group(
            "embed",
            "sequences",
            ("embed", "one sequence at a time"),
            {"count": sizes.sequences, "length": sizes.length, "warm": {"count": 3}},
        ),
        *(generated(count, sizes.short) for count in (1, 8, 64)),
        *(generated(1, length) for length in (sizes.near, sizes.far)),
        Group("memorize", "bases", ("memorize, mean", "memorize, last"), reading),
        *(
            Group(f"memory of track, {number:g} Mb", "bases", ("track",), reading | {"bases": round(1e6 * number)})
            for number in sizes.megabases
        ),
    ]


def model_of(path: Path) -> dict[str, Any]:
    """Which model is measured. Raises ValueError where there is none."""
    folder = path / "train" / "titans"
    if not all((folder / name).is_file() for name in ("model.json", "model.safetensors")):
        raise ValueError(f"{path}: holds no trained model (train/titans/model.json); `make run` makes results/default")
    from titans_genomics.files import file_sha256

    about = json.loads((folder / "model.json").read_text())
    own = {"run": os.path.relpath(path, ROOT), "parameters": about["parameters"], "step": about["step"]}
    return own | {"sha256": file_sha256(folder / "model.safetensors")}


def run(
    plan: Sequence[Group],
    model: Path,
    path: Path,
    scratch: Path,
    threads: int,
    resume: bool,
    quick: bool,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> dict[str, Any]:
    """Measure every group of the plan; each result is kept at once, those of other groups of the same model stay.

    With ``resume``, measurements that the file holds are not repeated, those that failed or were other ones are.
    """
    about = model_of(model)
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    specs = {group.name: group.spec for group in plan}

    def stays(record: dict[str, Any]) -> bool:
        name = record["group"]
        return name not in specs or (resume and "error" not in record and record["spec"] == specs[name])

    same = results.get("model") == about
    results["runs"] = [record for record in results["runs"] if same and stays(record)]
    results |= {"machine": describe(threads), "model": about, "quick": quick}
    results["machine"]["versions"] |= {package: installed(package) for package in PACKAGES}
    path.parent.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    for group in plan:
        for number in range(group.rounds):
            for side in group.sides:
                before = [r for r in results["runs"] if (r["group"], r["side"]) == (group.name, side)]
                if any(r["round"] == number or "error" in r for r in before):
                    continue
                spec = {**group.spec, "side": side, "run": str(model.resolve()), "scratch": str(scratch)}
                found = taken(partial(in_own_process, "benchmarks.use_measure", spec, env, LIMIT))
                where = {"group": group.name, "side": side, "round": number}
                record = {**where, "unit": group.unit, "spec": group.spec, **found}
                results["runs"].append(record)
                keep(results, path)
                say(line(record))
    return results


def line(record: dict[str, Any]) -> str:
    """What the terminal shows of a measurement."""
    where = f"{record['at'][11:]} {record['group']} | {record['side']} | round {record['round'] + 1}"
    if "error" in record:
        return f"{where}: no figure: {record['error']}"
    rates = [f"{figure(record[of] / record['seconds'])} {name}/s" for of, name in (("amount", record["unit"]), ("tokens", "tokens"))]  # fmt: skip
    return f"{where}: {', '.join(rates)}, peak {record['peak_mb']:,.0f} MB ({record['took_s']:.0f} s)"


def lengths(text: str) -> tuple[float, ...]:
    """Megabases as they are asked for: 1,4,16."""
    found = tuple(float(part) for part in text.split(","))
    if not all(0 < number < 1e4 for number in found):
        raise ValueError
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks use", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--only", default="", help="comma-separated beginnings of group names")
    parser.add_argument("--megabases", type=lengths, help="lengths of the genomes of the memory of track")
    parser.add_argument("--resume", action="store_true", help="keep measurements that the results file holds")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of every side (default: all cores)"
    )
    parser.add_argument("--run", type=Path, default=RUN, help="folder of the run (default: results/default)")
    parser.add_argument("--scratch", type=Path, help="where files are made, and removed (default: benchmarks)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/use.json)")
    parser.add_argument("--list", action="store_true", help="print the groups and stop")
    parser.add_argument("--table", action="store_true", help="print the tables of the results file and stop")
    parser.add_argument("--into", type=Path, help="also put the tables between the use marks of this Markdown file")
    chosen = parser.parse_args(arguments)
    path = chosen.out or (RESULTS.with_stem("use-quick") if chosen.quick else RESULTS)
    sizes = QUICK if chosen.quick else Sizes()
    if chosen.megabases:
        sizes = sizes._replace(megabases=chosen.megabases)
    starts = tuple(part.strip() for part in chosen.only.split(","))
    plan = [group for group in groups(sizes) if group.name.startswith(starts)]
    if not plan:
        parser.error(f"--only {chosen.only}: no group begins so; --list shows them")
    if chosen.list:
        for group in plan:
            print(f"{group.name}: {'; '.join(group.sides)} {json.dumps(group.spec)}")
        return
    if chosen.table and not path.is_file():
        parser.error(f"{path}: no results yet")
    try:
        results = json.loads(path.read_text()) if chosen.table else measured(plan, path, chosen)
        tables = render(results)
        print(tables)
        if chosen.into:
            put_between(chosen.into, "use", tables)
    except ValueError as error:
        parser.error(str(error))


def measured(plan: Sequence[Group], path: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """`run` in a scratch folder that goes away, also when the run is stopped."""
    model_of(chosen.run)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parent = chosen.scratch or Path(__file__).parent
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=parent) as scratch:
            (Path(scratch) / ".gitignore").write_text("*\n")
            return run(plan, chosen.run, path, Path(scratch), chosen.threads, chosen.resume, chosen.quick)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
