"""Needles in text as plots: a heat map by length and depth of each model, and one curve by length of all models together."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

from titans_genomics.report import heat_map as picture
from titans_genomics.report.plots import STYLE, Look, axes, label, svg

KINDS = {"pk": "number in repeated sentences (PK)", "n": "number in text (N)", "w": "UUID in text (W)"}

FIGURES = {
    "found": "answers with the value",
    "accuracy": "tokens of the value right",
    "exact": "values right, token by token",
}

CELL = 0.46
"""Width of a cell, inches."""

WIDEST = 11.0
"""Inches of all panels of a heat map side by side at most."""


def heat_map(result: dict[str, Any], kind: str, labels: dict[str, str] | None = None, figure: str = "found") -> str:
    """One panel per model of the share that is found of needles of one kind, by length and depth, as an SVG element.

    Parameters
    ----------
    result : dict
        The contents of niah.json.
    kind : str
        pk, n or w.
    labels : dict
        How models are called; default: as in the result.
    figure : str
        found, accuracy or exact.
    """
    panels = [
        ((labels or {}).get(name, label(name)), [cell for cell in measured["cells"] if cell["kind"] == kind])
        for name, measured in result["models"].items()
    ]
    lengths = sorted(result["lengths"])
    return picture.heat_map(
        [(title, {(c["length"], c["depth"]): c[figure] for c in cells}) for title, cells in panels],
        lengths,
        sorted(result["depths"]),
        name=f"niah-{kind}",
        alt=_spoken(kind, figure, panels),
        read="tokens read",
        chance=0.0,
        ticks={0: "0%", 0.25: "25%", 0.5: "50%", 0.75: "75%", 1: "100%"},
        cell=CELL,
        columns=min(picture.COLUMNS, int(WIDEST / (0.9 + CELL * len(lengths)))),
    )


def by_length(result: dict[str, Any], looks: dict[str, Look], figure: str = "found") -> str:
    """The share that is found by length, all depths together: one panel per kind, one line per model, as an SVG element.

    A dashed line marks the windows that models were trained on.
    """
    kinds = result["kinds"]
    lengths = sorted(result["lengths"])
    with mpl.rc_context(STYLE):
        drawn, grid = axes(1, len(kinds), max(5.0, 3.4 * len(kinds)), 3.4, sharey=True)
        for ax, kind in zip(grid[0], kinds, strict=True):
            for name, measured in result["models"].items():
                rows = sorted((r for r in measured["lengths"] if r["kind"] == kind), key=lambda r: r["length"])
                ax.plot(
                    [row["length"] for row in rows], [row[figure] for row in rows], marker="o", markersize=4,
                    color=looks[name].colour, linestyle=looks[name].dash, label=looks[name].label,
                )  # fmt: skip
            for context in {measured["train_context"] for measured in result["models"].values()}:
                ax.axvline(context, color="#7a7a7a", linestyle="--", linewidth=1)
            ax.set_xscale("log", base=2)
            ax.set_xticks(lengths, [picture.short(length) for length in lengths], rotation=45)
            ax.minorticks_off()
            ax.set_ylim(-0.03, 1.03)
            ax.set_xlabel("tokens read")
            ax.set_title(KINDS[kind])
        grid[0, 0].set_ylabel(FIGURES[figure])
        handles, names = grid[0, 0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=4)
        panels = [(looks[name].label, list(measured["lengths"])) for name, measured in result["models"].items()]
        return svg(drawn, "niah-lengths", _spoken("all kinds", figure, panels))


def rows(result: dict[str, Any], figure: str = "found", labels: dict[str, str] | None = None) -> list[list[str]]:
    """The same figures as cells of a table: a heading, then one row per model and kind, "97 (90-99)" with the interval of found."""
    lengths = sorted(result["lengths"])
    found = [["model", "kind", *(f"{length:,}" for length in lengths)]]
    for name, measured in result["models"].items():
        for kind in result["kinds"]:
            by = {row["length"]: row for row in measured["lengths"] if row["kind"] == kind}
            cells = []
            for length in lengths:
                text = f"{100 * by[length][figure]:.0f}" if length in by else ""
                if text and figure == "found":
                    low, high = (100 * bound for bound in by[length]["found_ci95"])
                    text += f" ({low:.0f}-{high:.0f})"
                cells.append(text)
            found.append([(labels or {}).get(name, name), kind, *cells])
    return found


def _spoken(kind: str, figure: str, panels: list[tuple[str, list[dict[str, Any]]]]) -> str:
    """The figure in words."""
    parts = []
    for title, cells in panels:
        shares = [cell[figure] for cell in cells]
        if shares:
            parts.append(f"{title} from {100 * min(shares):.0f}% to {100 * max(shares):.0f}%")
    return f"Needles in text, {KINDS.get(kind, kind)}, {FIGURES[figure]} by length: {'; '.join(parts)}"
