"""What is in a token store as one self-contained HTML page; the run's report is module ``build``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from titans_genomics import __version__
from titans_genomics.files import write_text
from titans_genomics.report.plots import LAYERS, STYLE, axes, label, svg
from titans_genomics.report.tables import count, counted_in, percent

_SPLITS = {"train": "#0f8b8d", "validation": "#d17a00", "test": "#8a63d2"}
_ROWS = 30  # sources (or reasons, or train sources) that a plot shows; the smaller ones are left to the tables
_LINES = len(LAYERS)  # sources that a plot of distributions shows
_MATCHES = 20  # longest matches between the splits that are listed
_FILLED = 3  # so many distributions are filled; more would hide each other


def write_page(found: dict[str, Any], path: Path) -> None:
    """Write what `inspect_store` found to ``path``, whole or not at all; its folder is made when it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(found))


def render(found: dict[str, Any]) -> str:
    """The page: tables and inline plots in one HTML string that refers to nothing outside itself."""
    loader = jinja2.PackageLoader("titans_genomics.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"count": count, "percent": percent, "share": _share, "locus": _locus}
    # The two pages look alike: the style is that of the run's report.
    style = re.search(r"<style>.*?</style>", loader.get_source(environment, "template.html")[0], re.DOTALL)
    assert style is not None
    sources, leaks = found["sources"], found["leaks"]
    matches = sorted(
        (match for held in (leaks or {"held": []})["held"] for match in held["matches"]),
        key=lambda match: match["held"]["start"] - match["held"]["end"],
    )
    drawn = {
        "bases": _bases(sources),
        "shares": _shares(sources),
        "lengths": _lengths(sources),
        "gc": _gc(sources),
        "left_out": _left_out(sources),
        "leaks": _leaks(leaks) if leaks else None,
    }
    return environment.get_template("store.html").render(
        style=style.group(),
        found=found,
        unit=f"{counted_in(sources)}s",
        figures=_figures(found),
        splits=list(_SPLITS),
        matches=matches[:_MATCHES],
        shown={"rows": _ROWS, "lines": _LINES},
        plots=drawn,
        version=__version__,
    )


def _figures(found: dict[str, Any]) -> list[dict[str, str]]:
    """The figures at the top of the page."""
    totals = found["totals"]
    bases = {name: split["bases"] for name, split in totals["splits"].items()}
    figures = [
        {"value": _mega(totals["bases"], "MB"), "label": f"of text in {count(totals['read'])} documents"}
        if counted_in(found["sources"]) == "byte"
        else {"value": _mega(totals["bases"]), "label": f"of sequence in {count(totals['read'])} records"},
        {"value": _mega(sum(split["tokens"] for split in totals["splits"].values()), "M"), "label": "tokens"},
        {
            "value": percent((bases["validation"] + bases["test"]) / max(sum(bases.values()), 1)),
            "label": "of it held out for validation and test",
        },
        {
            "value": percent(totals["duplicates"]["bases"] / max(totals["bases"], 1)),
            "label": "in records that are the same as one before them",
        },
    ]
    if found["leaks"] and found["leaks"]["held"]:
        worst = max(found["leaks"]["held"], key=lambda held: held["share"])
        label = f"of {worst['source']} ({worst['split']}) stands near-identically in train, the most of all"
        figures.append({"value": percent(worst["share"]), "label": label})
    return figures


def _mega(value: int, unit: str = "Mb") -> str:
    return f"{value / 1e6:,.2f} {unit}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}%"


def _locus(locus: dict[str, Any]) -> str:
    return f"{locus['record']}:{locus['start']}-{locus['end']}"


# --------------------------------------------------------------------------------------------- plots


def _largest(sources: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The sources of most bases, in the order of the store."""
    largest = sorted(range(len(sources)), key=lambda i: -sources[i]["bases"])[:most]
    return [sources[i] for i in sorted(largest)]


def _bars(rows: int, columns: int, names: Sequence[str]) -> tuple[Figure, Any]:
    """Panels of horizontal bars, one row of bars per name."""
    figure, grid = axes(1, columns, 10 if columns > 1 else 7.2, 0.9 + 0.26 * rows, sharey=True)
    grid[0, 0].set_yticks(range(rows), names)
    grid[0, 0].set_ylim(rows - 0.4, -0.6)
    for ax in grid[0]:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    return figure, grid[0]


def _bases(sources: Sequence[dict[str, Any]]) -> str:
    """Bases of every source, by split."""
    shown = _largest(sources, _ROWS)
    with mpl.rc_context(STYLE):
        figure, (ax,) = _bars(len(shown), 1, [label(source["name"]) for source in shown])
        left = np.zeros(len(shown))
        for split, colour in _SPLITS.items():
            width = np.array([source["splits"][split]["bases"] for source in shown], dtype=float)
            ax.barh(range(len(shown)), width, left=left, color=colour, height=0.72, label=split)
            left += width
        ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        ax.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure, "bases", f"{counted_in(shown).capitalize()}s of each source and split")


def _shares(sources: Sequence[dict[str, Any]]) -> str | None:
    """Shares of N, soft-masked bases and duplicates; None when there are none of them, as in text."""
    shown = _largest([source for source in sources if source["n"]], _ROWS)
    panels = {
        "N": [source["n"]["share"] for source in shown],
        "soft-masked": [source["soft_masked"]["share"] for source in shown],
        "in duplicates": [source["duplicates"]["bases"] / max(source["bases"], 1) for source in shown],
    }
    if not any(map(any, panels.values())):
        return None
    with mpl.rc_context(STYLE):
        figure, row = _bars(len(shown), len(panels), [label(source["name"]) for source in shown])
        for ax, (title, values), colour in zip(row, panels.items(), LAYERS, strict=False):
            ax.barh(range(len(shown)), [100 * value for value in values], color=colour, height=0.72)
            ax.set_xlim(0, max(100 * max(values) * 1.05, 1))
            ax.set_title(title)
            ax.set_xlabel("% of the bases")
        return svg(figure, "shares", "Shares of N, soft-masked bases and duplicates")


def _lengths(sources: Sequence[dict[str, Any]]) -> str | None:
    """How the bases of every source are spread over records by length; None when no source has a record."""
    shown = _largest([source for source in sources if source["bases"]], _LINES)
    if not shown:
        return None
    histograms = {source["name"]: source["lengths"]["histogram"] for source in shown}
    with mpl.rc_context(STYLE):
        figure, ax = _steps({name: (own["bases"], own["edges"]) for name, own in histograms.items()})
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        ax.set_xlabel("length of the record, bases" if shown[0]["n"] else "length of the document, bytes")
        ax.set_ylabel("% of the bases" if shown[0]["n"] else "% of the bytes")
        return svg(
            figure,
            "lengths",
            "Share of the bases by length of the record"
            if shown[0]["n"]
            else "Share of the bytes by length of the document",
        )


def _gc(sources: Sequence[dict[str, Any]]) -> str | None:
    """How GC is spread over the windows of every source; None for text."""
    shown = _largest([source for source in sources if source["gc_spread"]], _LINES)
    if not shown:
        return None
    spreads = {source["name"]: source["gc_spread"] for source in shown}
    edges = [100 * edge for edge in shown[0]["gc_spread"]["histogram"]["edges"]]
    with mpl.rc_context(STYLE):
        figure, ax = _steps({name: (own["histogram"]["windows"], edges) for name, own in spreads.items()})
        low = min(own["quantiles"]["0.0"] for own in spreads.values())
        high = max(own["quantiles"]["1.0"] for own in spreads.values())
        ax.set_xlim(max(100 * low - 4, 0), min(100 * high + 4, 100))
        ax.set_xlabel("GC of the window, %")
        ax.set_ylabel("% of the windows")
        return svg(figure, "gc", "Spread of GC over windows")


def _steps(histograms: dict[str, tuple[Sequence[float], Sequence[float]]]) -> tuple[Figure, Axes]:
    """Histograms (values and edges, by source) over each other, each adding up to 100%."""
    figure, grid = axes(1, 1, 7.2, 3.2)
    ax: Axes = grid[0, 0]
    for (name, (values, edges)), colour in zip(histograms.items(), LAYERS, strict=False):
        share = 100 * np.array(values, dtype=float) / max(sum(values), 1)
        ax.stairs(share, edges, color=colour, linewidth=1.5, label=label(name))
        if len(histograms) <= _FILLED:
            ax.stairs(share, edges, color=colour, alpha=0.08, fill=True)
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure, ax


def _left_out(sources: Sequence[dict[str, Any]]) -> str | None:
    """Records and bases that are in no split, by reason; None when there are none."""
    reasons: dict[str, dict[str, int]] = {}
    for left in (left for source in sources for left in source["left_out"]):
        own = reasons.setdefault(left["reason"], {"records": 0, "bases": 0})
        for key in own:
            own[key] += left[key] or 0
    if not reasons:
        return None
    rows = sorted(reasons.items(), key=lambda row: (-row[1]["bases"], -row[1]["records"]))[:_ROWS]
    with mpl.rc_context(STYLE):
        figure, row = _bars(len(rows), 2, [label(reason, 56) for reason, _ in rows])
        for ax, key, colour in zip(row, ("records", "bases"), LAYERS, strict=False):
            ax.barh(range(len(rows)), [own[key] for _, own in rows], color=colour, height=0.72)
            ax.set_xlim(left=0)
            ax.set_title("bytes" if key == "bases" and counted_in(sources) == "byte" else key)
            ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        return svg(figure, "left_out", "What was left out, by reason")


def _leaks(leaks: dict[str, Any]) -> str | None:
    """A matrix: what share of each held-out source stands near-identically in each train source; None without any."""
    largest = sorted((held for held in leaks["held"] if held["pairs"]), key=lambda held: -held["share"])[:_ROWS]
    if not largest:
        return None
    held = [one for one in leaks["held"] if one in largest]
    wanted = list(dict.fromkeys(pair["train"] for one in largest for pair in one["pairs"]))[:_ROWS]
    trains = [name for name in dict.fromkeys([*(one["source"] for one in leaks["held"]), *wanted]) if name in wanted]
    shares = np.zeros((len(held), len(trains)))
    for row, one in enumerate(held):
        for pair in one["pairs"]:
            if pair["train"] in trains:
                shares[row, trains.index(pair["train"])] = pair["share"]
    clear = (*mpl.colors.to_rgb(LAYERS[0]), 0.0)
    colours = LinearSegmentedColormap.from_list("leaks", [clear, (*clear[:3], 0.85)])
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 1, 3 + 0.55 * len(trains), 1.6 + 0.3 * len(held))
        ax = grid[0, 0]
        ax.pcolormesh(shares, cmap=colours, vmin=0, vmax=max(shares.max(), leaks["max_share"], 0.01))
        for row, column in np.argwhere(shares > 0).tolist():
            text = f"{100 * shares[row, column]:.1f}"
            ax.annotate(text, (column + 0.5, row + 0.5), ha="center", va="center", fontsize=8)
        ax.set_yticks(np.arange(len(held)) + 0.5, [label(f"{one['source']} ({one['split']})") for one in held])
        ax.set_xticks(np.arange(len(trains)) + 0.5, [label(name) for name in trains], rotation=45, ha="right")
        ax.set_ylim(len(held), 0)
        ax.grid(visible=False)
        ax.tick_params(length=0)
        ax.set_title("% of the held-out bases (rows) that stands in train (columns)")
        return svg(figure, "leaks", "Held-out sequence that stands near-identically in train")
