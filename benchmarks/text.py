"""`python -m benchmarks text`: whole models that read a prompt and go on, one token at a time, after short and long contexts.

python -m benchmarks text                          everything, a quarter of an hour; one thread
python -m benchmarks text --quick                  short prompts, one round, two minutes
python -m benchmarks text --only lmm,titans-pytorch   sides whose names begin so
python -m benchmarks text --resume                 go on with a run that was stopped
python -m benchmarks text --table                  only print the tables of the results file

The variants of the package, the baselines among them, beside titans-pytorch's MAC and a Transformer that attends to everything; all with
fresh weights, width 128, 2 heads, 2 layers, 256 tokens in the vocabulary. Every measurement is a process of its own, sides take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import describe
from benchmarks.run import in_own_process, keep, taken
from benchmarks.table import about, number, put_between, rows
from benchmarks.text_measure import BUILD, PEER, TRANSFORMER

RESULTS = Path(__file__).parent / "results" / "text.json"
LIMIT = 900  # seconds after which one measurement is given up
SHAPE = {"width": 128, "heads": 2, "layers": 2}


class Sizes(NamedTuple):
    """What is measured.

    Attributes
    ----------
    lengths : tokens of the prompts, ascending
    causal, peer : the longest prompt that the Transformer and titans-pytorch read
    often : the longest prompt that every round reads; the first reads all
    count : tokens decoded after each prompt
    batch, context : sequences that are decoded together, and the length of their prompts
    """

    lengths: tuple[int, ...] = (1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)
    causal: int = 65_536
    peer: int = 65_536
    often: int = 16_384
    count: int = 128
    batch: int = 8
    context: int = 1_024
    rounds: int = 2


QUICK = Sizes(lengths=(512, 2_048, 8_192), causal=2_048, peer=2_048, often=2_048, count=48, context=512, rounds=1)


def spec_of(side: str, turn: int, sizes: Sizes, batch: int) -> dict[str, Any]:
    """What one process measures of a side."""
    spec = {"side": side, "count": sizes.count, "batch": batch, **SHAPE}
    if batch > 1:
        return {**spec, "lengths": [sizes.context]}
    lengths = [n for n in sizes.lengths if turn == 0 or n <= sizes.often]
    most = {TRANSFORMER: sizes.causal, PEER: sizes.peer}.get(side, sizes.lengths[-1])
    rest = [n for n in lengths if n > most]
    return {**spec, "lengths": [n for n in lengths if n <= most], "filled": rest if side == TRANSFORMER else []}


def run(
    sides: list[str], sizes: Sizes, path: Path, resume: bool, say: Callable[[str], None] = lambda line: print(line)
) -> dict[str, Any]:
    """Measure the sides in turn; each result is kept at once, those of other sides in the file stay.

    With ``resume``, measurements that the file holds are not repeated, those that failed are.
    """
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    own = results.get("sizes") == json.loads(json.dumps(sizes._asdict()))
    results["runs"] = [r for r in results["runs"] if own and (r["side"] not in sides or (resume and "error" not in r))]
    results |= {"machine": describe(1), "sizes": json.loads(json.dumps(sizes._asdict()))}
    path.parent.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for batch in (1, sizes.batch):
        for turn in range(sizes.rounds):
            for side in sides:
                if any((r["batch"], r["round"], r["side"]) == (batch, turn, side) for r in results["runs"]):
                    continue
                spec = spec_of(side, turn, sizes, batch)
                found = taken(partial(in_own_process, "benchmarks.text_measure", spec, env, LIMIT))
                record = {"side": side, "batch": batch, "round": turn, **found}
                results["runs"].append(record)
                keep(results, path)
                say(line(record))
    return results


def line(record: dict[str, Any]) -> str:
    """What the terminal shows of a measurement."""
    where = f"{record['at'][11:]} {record['side']}, {record['batch']} at a time, round {record['round'] + 1}"
    if "error" in record:
        return f"{where}: no figure: {record['error']}"
    speeds = (f"{number(record['batch'] / f['token_s'])} after {int(n):,}" for n, f in record["lengths"].items())
    wrong = "" if record["finite"] else ", NOT FINITE"
    return f"{where}: tokens/s {', '.join(speeds)}{wrong} ({record['took_s']:.0f} s)"


class Figures:
    """Medians over the rounds of a run."""

    def __init__(self, results: dict[str, Any]):
        self.runs = results["runs"]
        self.sides = [side for side in BUILD if any(r["side"] == side for r in self.runs)]

    def median(self, side: str, name: str, length: int | None = None, batch: int = 1) -> float | None:
        """Of a figure of a run, or of one of its lengths; None where there is none or outputs were not finite."""
        runs = [r for r in self.runs if (r["side"], r["batch"]) == (side, batch) and r.get("finite")]
        parts = runs if length is None else [r["lengths"].get(str(length), {}) for r in runs]
        found = [part[name] for part in parts if name in part]
        return statistics.median(found) if found else None

    def speed(self, side: str, length: int, batch: int = 1) -> float | None:
        """Tokens per second of all sequences together."""
        seconds = self.median(side, "token_s", length, batch)
        return batch / seconds if seconds else None

    def slowdown(self, side: str, near: int, far: int) -> float | None:
        """Time of a token after `far` in units of that after `near`, measured in turns in one process."""
        for r in self.runs:
            if (r["side"], r["batch"], r["round"]) == (side, 1, 0) and r.get("finite"):
                times = [r["lengths"].get(str(n), {}).get("token_s") for n in (near, far)]
                return times[1] / times[0] if all(times) else None
        return None


def render(results: dict[str, Any]) -> str:
    """All tables, the machine on top."""
    figures, sizes = Figures(results), Sizes(**results["sizes"])
    told = f"{about(results)} Width {SHAPE['width']}, {SHAPE['heads']} heads, {SHAPE['layers']} layers; seconds are processor time."
    near, far = (sizes.lengths[1] if len(sizes.lengths) > 1 else sizes.lengths[0]), sizes.lengths[-1]
    columns = [f"{n:,}" for n in sizes.lengths]

    def table(name: str, digits: int, cell: Callable[[float], float] = lambda x: x, last: str = "") -> str:
        body = []
        for side in figures.sides:
            found = [figures.median(side, name, n) for n in sizes.lengths]
            cells = [number(None if x is None else cell(x), digits if x is None or cell(x) < 100 else 0) for x in found]
            if last:
                slow = figures.slowdown(side, near, far)
                cells.append("-" if slow is None else f"{slow:.2f}x")
            body.append([side, *cells])
        return rows(["", *columns, *([last] if last else [])], body)

    last = f"time per token, {far:,} / {near:,}"
    sections = {
        "Decoding one sequence, tokens/s after a context of": table("token_s", 1, lambda s: 1 / s, last),
        "Seconds to the first token after a prompt of": table("first_s", 3),
        "Peak memory of the process up to there, MB": table("peak_mb", 0),
        "Of it what is remembered, MB": table("state_mb", 2),
        "Beside titans-pytorch and the Transformer": ratios(figures, sizes, near),
    }
    return "\n\n".join([told, *(f"### {title}\n\n{text}" for title, text in sections.items() if text)])


def ratios(figures: Figures, sizes: Sizes, near: int) -> str:
    """Speed of each side in units of the peers', one sequence and several."""
    body = []
    for side in figures.sides:
        cells = [side, number(figures.median(side, "parameters")), number(figures.median(side, "baseline_mb"))]
        for length, batch in ((near, 1), (sizes.context, sizes.batch)):
            own = figures.speed(side, length, batch)
            cells.append(number(own))
            for peer in (PEER, TRANSFORMER):
                other = figures.speed(peer, length, batch)
                cells.append(f"{own / other:.2f}x" if own and other else "-")
        body.append(cells)
    header = ["", "parameters", "MB before the prompt"]
    for length, batch in ((near, 1), (sizes.context, sizes.batch)):
        header += [f"tokens/s, batch {batch}, after {length:,}", f"/ {PEER}", f"/ {TRANSFORMER}"]
    return rows(header, body)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks text", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short prompts, one round")
    parser.add_argument("--only", default="", help="comma-separated beginnings of names of sides")
    parser.add_argument("--resume", action="store_true", help="keep measurements that the results file holds")
    parser.add_argument("--rounds", type=int, help="measurements of each side (default: 2, quick 1)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/text.json)")
    parser.add_argument("--table", action="store_true", help="print the tables of the results file and stop")
    parser.add_argument("--into", type=Path, help="also put the tables between the text marks of this Markdown file")
    chosen = parser.parse_args(arguments)
    path = chosen.out or (RESULTS.with_stem("text-quick") if chosen.quick else RESULTS)
    sizes = QUICK if chosen.quick else Sizes()
    if chosen.rounds is not None:
        sizes = sizes._replace(rounds=chosen.rounds)
    starts = tuple(part.strip() for part in chosen.only.split(","))
    sides = [side for side in BUILD if side.lower().startswith(tuple(start.lower() for start in starts))]
    if not sides:
        parser.error(f"--only {chosen.only}: no side begins so; there are {', '.join(BUILD)}")
    if chosen.table and not path.is_file():
        parser.error(f"{path}: no results yet")
    results = json.loads(path.read_text()) if chosen.table else run(sides, sizes, path, chosen.resume)
    tables = render(results)
    print(tables)
    if chosen.into:
        try:
            put_between(chosen.into, "text", tables)
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
