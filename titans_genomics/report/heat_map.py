"""A share by length and depth, one panel per model: the picture of needles, in genomes and in text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from titans_genomics.report.plots import STYLE, axes, svg

SCALE = mpl.colormaps["viridis"]
"""From chance to everything. Cells carry text of a colour of their own, so that they read on light and dark."""

COLUMNS = 3
"""Panels side by side, most."""

Cells = Mapping[tuple[int, float], float]
"""The share at a length and depth; what was not measured is not there."""


def heat_map(
    panels: Sequence[tuple[str, Cells]], lengths: Sequence[int], depths: Sequence[float], *,
    name: str, alt: str, read: str, chance: float, ticks: Mapping[float, str], cell: float, columns: int = COLUMNS,
) -> str:  # fmt: skip
    """Panels as an SVG element.

    Parameters
    ----------
    panels : sequence of (title, cells)
    lengths, depths : sequences
        In the order of the axes.
    name, alt : str
        What the ids of the SVG begin with; the figure in words.
    read : str
        What lengths are counted in: "bases read".
    chance : float
        The share that the scale begins with.
    ticks : mapping
        Marks of the scale, and what they say.
    cell : float
        Width of a cell, inches.
    columns : int
        Panels side by side, most.
    """
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    width, height = 0.9 + cell * len(lengths), 0.9 + 0.34 * len(depths)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = axes(
            rows, columns, max(4.2, columns * width + 0.9), max(2.0, rows * height), sharex=True, sharey=True
        )
        for ax in grid.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, cells) in zip(grid.flat, panels, strict=False):
            _panel(ax, cells, lengths, depths, chance)
            ax.set_title(title)
        for ax in grid[:, 0]:
            ax.set_ylabel("depth of the needle")
        for number in range(columns):
            lowest = grid[(len(panels) - 1 - number) // columns, number]
            lowest.set_xlabel(read)
            lowest.tick_params(axis="x", labelbottom=True)
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(chance, 1), SCALE)
        bar = figure.colorbar(scale, ax=list(grid.flat), ticks=list(ticks), shrink=0.9)
        bar.ax.set_yticklabels(list(ticks.values()))
        bar.outline.set_visible(False)
        return svg(figure, name, alt)


def short(length: int) -> str:
    """A length as 512, 4k, 16k, 1M: powers of two by their binary thousands."""
    for size, prefix in ((1 << 20, "M"), (1_000_000, "M"), (1 << 10, "k"), (1000, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{prefix}"
    return f"{length:,}"


def _panel(ax: Axes, cells: Cells, lengths: Sequence[int], depths: Sequence[float], chance: float) -> None:
    """Cells of equal size: lengths are read off on a logarithmic scale, as they are mostly doubled."""
    for (x, length), (y, depth) in product(enumerate(lengths), enumerate(depths)):
        if (share := cells.get((length, depth))) is None:
            continue
        fill = SCALE(min(1.0, max(0.0, (share - chance) / (1 - chance))))
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor="none"))
        ink = "#ffffff" if 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] < 0.5 else "#101010"
        ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=ink)
    ax.set_xlim(-0.5, len(lengths) - 0.5)
    ax.set_ylim(len(depths) - 0.5, -0.5)
    ax.set_xticks(range(len(lengths)), [short(length) for length in lengths])
    ax.set_yticks(range(len(depths)), [f"{100 * depth:g}%" for depth in depths])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
