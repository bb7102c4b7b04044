"""Results of `benchmarks.data` as Markdown tables: rates, ratios beside the aims, memory."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from benchmarks.data_files import Sizes
from benchmarks.table import about, number, rows
from titans_genomics.progress import quantity


class Aim(NamedTuple):
    """Ours against another way: at least `ratio` times its rate; None: only reported."""

    group: str
    ours: str
    other: str
    ratio: float | None = None
    note: str = ""


STORES = ("store, gate off", "store, gate on")
AIMS = [
    *(Aim("fasta", ours, "Hugging Face characters (Rust)", 5) for ours in STORES),
    *(Aim("fasta", ours, "Hugging Face characters (Python)", 20) for ours in STORES),
    *(Aim("fasta", ours, "pysam.FastxFile", 0.5) for ours in STORES),
    Aim("gzip", "store, gate off", "gzip.open"),
    Aim("gzip", "store, gate off", "isal igzip"),
    Aim("bgzip", "store, gate off", "pysam.BGZFile"),
    Aim("bgzip", "store, 1 thread", "pysam.BGZFile"),
    Aim("bgzip", "read_blocks", "pysam.BGZFile"),
    Aim("bgzip", "read_blocks, 1 thread", "pysam.BGZFile"),
    Aim("bgzip", "store, gate off", "store, 1 thread"),
    *(
        Aim(group, "store, gate off", "pysam.AlignmentFile", 1 / 1.5, " (1.5x its time)")
        for group in ("real bam", "synthetic bam")
    ),
    Aim("synthetic bam", "store, gate on", "pysam.AlignmentFile"),
    *(
        Aim(group, ours, other, 0.5)
        for group in ("windows of a genome", "windows of reads")
        for ours, other in (
            ("Run.windows", "np.array(memmap)"),
            ("TrainWindows", "np.array(memmap)"),
            ("TrainWindows", "np.array(memmap), int64 tensors"),
        )
    ),
    Aim("windows of a genome", "TrainWindows, half turned", "np.array(memmap), int64 tensors"),
    Aim("training", "training, its loader", "training, one batch", 0.98),
    Aim("training", "the loader alone", "training, its loader"),
]
ROOM = 1_073.741824  # MB; a store may take that and the longest contig


class Figures:
    """The rounds of a run."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.runs = results["runs"]

    def of(self, group: str, side: str) -> list[dict[str, Any]]:
        """All rounds of a side that gave a figure."""
        return [r for r in self.runs if (r["group"], r["side"]) == (group, side) and "error" not in r]

    def rate(self, group: str, side: str) -> float | None:
        """Median, bases or tokens per second."""
        found = [r["amount"] / r["seconds"] for r in self.of(group, side)]
        return statistics.median(found) if found else None

    def ratio(self, group: str, ours: str, other: str) -> float | None:
        """Median of the ratios of rates over the rounds that both sides have."""
        a, b = ({r["round"]: r["amount"] / r["seconds"] for r in self.of(group, side)} for side in (ours, other))
        found = [a[n] / b[n] for n in a.keys() & b.keys()]
        return statistics.median(found) if found else None

    def trouble(self, group: str, side: str) -> str:
        """Why there is no figure, in brackets."""
        found = [r["error"] for r in self.runs if (r["group"], r["side"]) == (group, side) and "error" in r]
        return f" ({found[0]})" if found else ""


def comparisons(figures: Figures, full: bool) -> str:
    """Ours against other ways, beside the aims; those are about the full sizes."""
    body = []
    for aim in AIMS:
        cells = []
        for side in (aim.ours, aim.other):
            rate = figures.rate(aim.group, side)
            cells.append(("-" if rate is None else quantity(rate)) + figures.trouble(aim.group, side))
        if not any(r["group"] == aim.group for r in figures.runs):
            continue
        ratio = figures.ratio(*aim[:3])
        reached = "-" if not full or ratio is None or aim.ratio is None else "yes" if ratio >= aim.ratio else "no"
        body.append(
            [
                aim.group,
                f"{aim.ours} / {aim.other}",
                " / ".join(cells),
                "-" if ratio is None else f"{ratio:.2f}x",
                "report" if aim.ratio is None else f"{aim.ratio:.2g}x{aim.note}",
                reached,
            ]
        )
    return rows(["", "ours / other", "bases or tokens/s", "ratio", "aim", "reached"], body) if body else ""


def memory(figures: Figures, full: bool) -> str:
    """Memory of the large genome, and what opening its store costs."""
    body = []
    for side in STORES:
        for r in figures.of("large", side):
            room = ROOM + r["longest"] / 1e6
            most = [r["peak_mb"], r["anonymous_mb"]]
            reached = "/".join("-" if m is None or not full else "yes" if m <= room else "no" for m in most)
            cells = [side, number(r["amount"]), number(r["seconds"], 1), quantity(r["amount"] / r["seconds"])]
            body.append([*cells, *map(number, (r["baseline_mb"], *most, room)), reached])
    header = [
        *("", "bases", "seconds", "bases/s", "MB before", "peak MB", "anonymous MB", "1 GiB + longest contig"),
        "all / anonymous within",
    ]
    parts = [rows(header, body)] if body else []
    for r in figures.of("large", "open"):
        parts.append(
            f"Opening that store: {r['open_ms']:.1f} ms and {number(r['open_mb'], 1)} MB; its first window "
            f"{r['first_window_ms']:.0f} ms later (the compiled kernel is loaded in these), the next after {r['next_window_ms']:.2f} ms."
        )
    return "\n\n".join(parts)


def sides(figures: Figures) -> str:
    """Every figure by itself."""
    body, seen = [], set()
    for r in figures.runs:
        where = (r["group"], r["side"])
        if where in seen or r["side"] == "open":
            continue
        seen.add(where)
        found = figures.of(*where)
        taken = [x["seconds"] for x in found]
        rate = figures.rate(*where)
        middle = {name: statistics.median(x[name] for x in found) if found else None for name in ("seconds", "amount")}
        processor = statistics.median(x["processor_s"] for x in found) if found else None
        peak = max((x["peak_mb"] for x in found), default=None)
        body.append(
            [
                *where,
                number(middle["amount"]) + figures.trouble(*where),
                number(middle["seconds"], 3),
                f"{min(taken):.3f} to {max(taken):.3f} ({len(taken)})" if taken else "-",
                "-" if rate is None else quantity(rate),
                number(processor, 3),
                number(peak),
            ]
        )
    header = [
        "",
        "side",
        "bases or tokens",
        "seconds",
        "least to most (rounds)",
        "a second",
        "processor seconds",
        "peak MB",
    ]
    return rows(header, body)


def render(results: dict[str, Any]) -> str:
    """All tables, the machine on top."""
    figures = Figures(results)
    full = results["sizes"] == Sizes()._asdict()
    sections = {
        "Ours beside other ways": comparisons(figures, full),
        "Memory": memory(figures, full),
        "Every figure": sides(figures),
    }
    return "\n\n".join([about(results), *(f"### {title}\n\n{text}" for title, text in sections.items() if text)])
