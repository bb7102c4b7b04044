"""Results of `benchmarks use` as Markdown tables: rates beside the plain way and the aims, what does not grow with length, all figures."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from benchmarks.table import about, number, rows
from titans_genomics.progress import quantity

PLAIN = "two passes per variant and strand"
SUBSTITUTIONS = "every substitution"
GROWTH = 1.10  # most memory of the longest genome, in units of the shortest one's
CONSTANT = 0.90  # least speed of a long sequence, in units of a short one's
DIFFERENCE = 1e-5  # most difference of scores, nats


class Aim(NamedTuple):
    """Ours against the plain way: at least ``ratio`` times its rate; None: only reported. ``seconds``: which of ours counts."""

    group: str
    ours: str
    other: str
    ratio: float | None = None
    seconds: str = "seconds"
    note: str = ""


AIMS = [
    Aim("variants, natural", "score-variants", PLAIN, 3),
    Aim("variants, 1 in ", "score-variants", PLAIN),
    Aim("variants, all of a locus", "saturate", PLAIN),
    Aim("track", "track", "plain forward pass", 0.8, "reading_s", " (reading)"),
    Aim("track", "track", "plain forward pass", 0.8, note=" (files too)"),
    Aim("embed", "embed", "one sequence at a time"),
]
"""Groups by how their names begin; no other group begins with "track"."""


def figure(rate: float | None) -> str:
    """A rate with three digits: 0.35, 7.52, 41.2k."""
    if rate is None:
        return "-"
    return quantity(rate) if rate >= 999.5 else f"{rate:#.3g}".rstrip(".")


class Figures:
    """The rounds of a run."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.runs = results["runs"]
        self.groups = list(dict.fromkeys(r["group"] for r in self.runs))

    def of(self, group: str, side: str) -> list[dict[str, Any]]:
        """All rounds of a side that gave a figure."""
        return [r for r in self.runs if (r["group"], r["side"]) == (group, side) and "error" not in r]

    def median(self, group: str, side: str, top: str, bottom: str = "") -> float | None:
        """Median over the rounds of a figure, or of one in units of another."""
        found = [r[top] / r[bottom] if bottom else r[top] for r in self.of(group, side) if top in r]
        return statistics.median(found) if found else None

    def ratio(self, group: str, aim: Aim) -> float | None:
        """Median of the ratios of rates over the rounds that both sides have."""
        a = {r["round"]: r["amount"] / r[aim.seconds] for r in self.of(group, aim.ours)}
        b = {r["round"]: r["amount"] / r["seconds"] for r in self.of(group, aim.other)}
        found = [a[n] / b[n] for n in a.keys() & b.keys()]
        return statistics.median(found) if found else None

    def differences(self, group: str, aim: Aim) -> dict[str, float]:
        """Largest difference of each kind of score that both sides tell."""
        a, b = ((self.of(group, side) or [{}])[0].get("scores", {}) for side in (aim.ours, aim.other))
        return {
            name: max(abs(x - y) for x, y in zip(a[name], b[name], strict=True)) for name in a if name in b and a[name]
        }

    def trouble(self, group: str, side: str) -> str:
        """Why there is no figure, in brackets."""
        found = [r["error"] for r in self.runs if (r["group"], r["side"]) == (group, side) and "error" in r]
        return f" ({found[0]})" if found else ""


def comparisons(figures: Figures, full: bool) -> str:
    """Ours beside the plain way; the aims are about the full sizes."""
    body = []
    for aim in AIMS:
        for group in figures.groups:
            if not group.startswith(aim.group) or not (figures.of(group, aim.ours) or figures.trouble(group, aim.ours)):
                continue
            sides = ((aim.ours, aim.seconds), (aim.other, "seconds"))
            rates = [figure(figures.median(group, side, "amount", seconds)) + figures.trouble(group, side) for side, seconds in sides]  # fmt: skip
            read = [figure(figures.median(group, side, "tokens", "amount")) for side, _ in sides]
            ratio, differences = figures.ratio(group, aim), figures.differences(group, aim)
            unit = next(r["unit"] for r in figures.runs if r["group"] == group)
            reached = "-"
            if full and ratio is not None and aim.ratio is not None:
                same = unit != "variants" or 0 <= differences.get("LLR", -1) <= DIFFERENCE
                reached = "yes" if ratio >= aim.ratio and same else "no"
            wanted = "report" if aim.ratio is None else f"{aim.ratio:g}x" + (f", {DIFFERENCE:.0e} nats" if unit == "variants" else "")  # fmt: skip
            body.append(
                [
                    group + aim.note,
                    f"{aim.ours} / {aim.other}",
                    f"{' / '.join(rates)} {unit}",
                    "-" if ratio is None else f"{ratio:.2f}x",
                    " / ".join(read),
                    ", ".join(f"{name} {most:.1e}" for name, most in differences.items()) or "-",
                    wanted,
                    reached,
                ]
            )
    header = ["", "ours / plain", "a second", "ratio", "tokens read for each", "largest difference", "aim", "reached"]
    return rows(header, body) if body else ""


def lengths(figures: Figures, full: bool) -> str:
    """What is to stay the same however long the sequence is."""
    found = [(r["amount"], r) for r in figures.runs if r["group"].startswith("memory of track") and "error" not in r]
    found.sort(key=lambda pair: pair[0])
    parts = []
    if found:
        first = found[0][1]["peak_mb"]
        body = [
            [
                number(amount), figure(amount / r["seconds"]), number(r["baseline_mb"]), number(r["peak_mb"]), f"{r['peak_mb'] / first:.2f}",
            ]
            for amount, r in found
        ]  # fmt: skip
        header = ["bases that `track` read", "bases/s", "MB before", "peak MB", "in units of the first"]
        grown = max(r["peak_mb"] for _, r in found) / first
        parts = [rows(header, body)]
        if full and len(found) > 1:
            parts.append(f"Growth at most {GROWTH:.2f}: {'yes' if grown <= GROWTH else 'no'}.")
    alone = [(r["amount"], r) for r in figures.runs if r["group"].startswith("generate, 1 x") and "error" not in r]
    alone.sort(key=lambda pair: pair[0])
    if len(alone) > 1:
        near, far = alone[-2], alone[-1]
        speeds = [amount / r["seconds"] for amount, r in (near, far)]
        peaks = " and ".join(f"{r['peak_mb']:,.0f}" for _, r in (near, far))
        said = (
            f"`generate`, one sequence: {figure(speeds[0])} bases/s over {near[0]:,} bases, {figure(speeds[1])} over {far[0]:,} "
            f"({speeds[1] / speeds[0]:.2f}x); peak {peaks} MB."
        )
        kept = "yes" if speeds[1] >= CONSTANT * speeds[0] else "no"
        parts.append(said + (f" At least {CONSTANT:.2f}x: {kept}." if full else ""))
    return "\n\n".join(parts)


def sides(figures: Figures) -> str:
    """Every figure by itself."""
    body = []
    for group, side in dict.fromkeys((r["group"], r["side"]) for r in figures.runs):
        own = figures.of(group, side)
        taken = [r["seconds"] for r in own]
        unit = next(r["unit"] for r in figures.runs if r["group"] == group)
        median = figures.median
        body.append(
            [
                group,
                side,
                (f"{own[0]['amount']:,} {unit}" if own else "-") + figures.trouble(group, side),
                number(median(group, side, "seconds"), 2),
                f"{min(taken):.2f} to {max(taken):.2f} ({len(taken)})" if taken else "-",
                number(median(group, side, "processor_s"), 2),
                figure(median(group, side, "amount", "seconds")),
                figure(median(group, side, "tokens", "seconds")),
                number(median(group, side, "peak_mb")),
            ]
        )
    header = [
        "", "side", "", "seconds", "least to most (rounds)", "processor seconds", "of them a second", "tokens/s", "peak MB",
    ]  # fmt: skip
    return rows(header, body) if body else ""


def render(results: dict[str, Any]) -> str:
    """All tables, the machine on top."""
    figures, model = Figures(results), results["model"]
    full = not results["quick"]
    told = f"{about(results)} The model of {model['run']}, {model['parameters']:,} parameters, {model['step']} steps, sha256 {model['sha256'][:12]}."
    sections = {
        "Beside the plain way": comparisons(figures, full),
        "Length": lengths(figures, full),
        "Every use": sides(figures),
    }
    return "\n\n".join([told, *(f"### {title}\n\n{text}" for title, text in sections.items() if text)])
