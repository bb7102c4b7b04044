"""The needle's heat map: how much of a payload comes back, by length and depth, one panel per model."""

from __future__ import annotations

from itertools import product
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from titans_genomics.report.plots import STYLE, axes, label, svg

CHANCE = 0.25

SCALE = mpl.colormaps["viridis"]
"""From chance to everything. Cells carry text of a colour of their own, so that they read on light and dark."""

COLUMNS = 3
"""Panels side by side, most."""


def heat_map(result: dict[str, Any], labels: dict[str, str] | None = None) -> str:
    """Share of payload bases that a model recalls by itself, as an SVG element.

    Parameters
    ----------
    result : dict
        The contents of needle.json.
    labels : dict
        How models are called; default: as in the result.
    """
    names = {name: (labels or {}).get(name, label(name)) for name in result["models"]}
    panels = [(names[name], measured) for name, measured in result["models"].items()]
    panels += [(f"{names[name]}, tuned", measured) for name, measured in result.get("tuned", {}).items()]
    lengths, depths = sorted(result["lengths"]), sorted(result["depths"])
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = 0.9 + 0.62 * len(lengths), 0.9 + 0.34 * len(depths)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = axes(
            rows, columns, max(4.2, columns * width + 0.9), max(2.0, rows * height), sharex=True, sharey=True
        )
        for ax in grid.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, measured) in zip(grid.flat, panels, strict=False):
            _panel(ax, measured["cells"], lengths, depths)
            ax.set_title(title)
        for ax in grid[:, 0]:
            ax.set_ylabel("depth of the needle")
        for number in range(columns):
            lowest = grid[(len(panels) - 1 - number) // columns, number]
            lowest.set_xlabel("bases read")
            lowest.tick_params(axis="x", labelbottom=True)
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(CHANCE, 1), SCALE)
        bar = figure.colorbar(scale, ax=list(grid.flat), ticks=[CHANCE, 0.5, 0.75, 1], shrink=0.9)
        bar.ax.set_yticklabels(["25%, chance", "50%", "75%", "100%"])
        bar.outline.set_visible(False)
        return svg(figure, "needle", _spoken(panels))


def _panel(ax: Axes, cells: list[dict[str, Any]], lengths: list[int], depths: list[float]) -> None:
    """Cells of equal size: lengths are read off on a logarithmic scale, as they are mostly doubled."""
    found = {(cell["length"], cell["depth"]): cell["recall"] for cell in cells}
    for (x, length), (y, depth) in product(enumerate(lengths), enumerate(depths)):
        recall = found.get((length, depth))
        if recall is None:
            continue
        fill = SCALE(min(1, max(0, (recall - CHANCE) / (1 - CHANCE))))
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor="none"))
        light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2]
        ax.text(
            x,
            y,
            f"{100 * recall:.0f}",
            ha="center",
            va="center",
            fontsize=9,
            color="#ffffff" if light < 0.5 else "#101010",
        )
    ax.set_xlim(-0.5, len(lengths) - 0.5)
    ax.set_ylim(len(depths) - 0.5, -0.5)
    ax.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
    ax.set_yticks(range(len(depths)), [f"{100 * depth:g}%" for depth in depths])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _short(length: int) -> str:
    """A length as 512, 4k, 16k, 1M: powers of two by their binary thousands."""
    for size, prefix in ((1 << 20, "M"), (1_000_000, "M"), (1 << 10, "k"), (1000, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{prefix}"
    return f"{length:,}"


def _spoken(panels: list[tuple[str, dict[str, Any]]]) -> str:
    """The figure in words."""
    parts = []
    for title, measured in panels:
        shares = [cell["recall"] for cell in measured["cells"]]
        parts.append(f"{title} from {100 * min(shares):.0f}% to {100 * max(shares):.0f}%")
    text = f"Share of payload bases recalled by length and depth, chance is 25%: {'; '.join(parts)}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
