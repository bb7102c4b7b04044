"""State tracking by length: how far what was learned on short words carries."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from titans_genomics.report.plots import DASHES, INK, MORE, STYLE, Look, axes, label, svg

PANELS = (("last_quarter", "right in the last quarter of a word"), ("exact", "words without a wrong answer"))


def accuracy_by_length(result: dict[str, Any], looks: dict[str, Look] | None = None) -> str:
    """Share of right answers by length, one line per model, as an SVG element.

    Parameters
    ----------
    result : dict
        The contents of states.json.
    looks : dict
        How models are shown; one that is not there gets a colour of its own and is called by its name.
    """
    shown = _shown(list(result["models"]), looks or {})
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, len(PANELS), 10, 3.6, sharey=True)
        for ax, (key, title) in zip(grid[0], PANELS, strict=True):
            for name, measured in result["models"].items():
                _line(ax, measured["lengths"], key, shown[name])
            _frame(ax, result)
            ax.set_title(title)
        grid[0, 0].axhline(result["chance"], color=INK, alpha=0.5, linestyle="--", linewidth=1.2, label="chance")
        grid[0, 0].set_ylabel("share")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        grid[0, -1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return svg(figure, "states", _spoken(result, shown))


def _shown(names: list[str], looks: dict[str, Look]) -> dict[str, Look]:
    """A look for each model; those that have none get pairs of colour and dash that are not taken."""
    taken = {(look.colour, look.dash) for look in looks.values()}
    free = (pair for dash in reversed(DASHES) for colour in MORE if (pair := (colour, dash)) not in taken)
    shown = {}
    for name in names:
        shown[name] = looks.get(name) or Look(label(name), *next(free, (INK, "-")))
    return shown


def _line(ax: Axes, rows: list[dict[str, Any]], key: str, look: Look) -> None:
    """The mean over seeds, and from the worst to the best of them."""
    x = [row["length"] for row in rows]
    style = {"color": look.colour, "linestyle": look.dash, "marker": "o", "markersize": 3.5}
    ax.plot(x, [row[key]["mean"] for row in rows], label=look.label, **style)
    if any(row[key]["high"] > row[key]["low"] for row in rows):
        low, high = ([row[key][end] for row in rows] for end in ("low", "high"))
        ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def _frame(ax: Axes, result: dict[str, Any]) -> None:
    """Axes, and where training ended."""
    lengths = sorted({row["length"] for measured in result["models"].values() for row in measured["lengths"]})
    ax.axvline(result["train_length"], color=INK, alpha=0.5, linestyle=":", linewidth=1.2)
    ax.annotate(" trained up to here", (result["train_length"], 1.04), va="bottom", alpha=0.7, fontsize=9)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.set_xticks(lengths, [f"{length:,}" for length in lengths])
    ax.set_ylim(-0.03, 1.14)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    ax.set_xlabel("letters of a word")


def _spoken(result: dict[str, Any], shown: dict[str, Look]) -> str:
    """The figure in words."""
    parts = []
    for name, measured in result["models"].items():
        rows = sorted(measured["lengths"], key=lambda row: row["length"])
        first, last = (f"{100 * row['last_quarter']['mean']:.0f}% at {row['length']:,}" for row in (rows[0], rows[-1]))
        parts.append(f"{shown[name].label} {first} and {last} letters")
    return f"Right answers in the last quarter of words of {result['group'].upper()}, chance is {100 * result['chance']:.1f}%: {'; '.join(parts)}"
