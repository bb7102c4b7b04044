"""Forecasts of one window of the test split, beside what came then."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from titans_genomics.report.plots import DASHES, INK, MORE, STYLE, Look, axes, label, svg

BASELINES = {"last": Look("last value", "#8c8c8c", ":"), "dlinear": Look("DLinear", "#8a63d2", "--")}
"""How the models that are none of the run's are shown."""

WIDTH = 7.2
"""Inches."""


def forecasts(result: dict[str, Any], looks: dict[str, Look], horizon: int | None = None) -> str:
    """The middle window of the test split, as an SVG element: a panel per column, at most those that were kept.

    Parameters
    ----------
    result : dict
        The contents of forecast.json.
    looks : dict
        How models are shown, by name; a model without a look gets one.
    horizon : int
        Which horizon, steps; default: the shortest.

    Raises
    ------
    ValueError
        When the result has no such horizon.
    """
    horizon = min(result["horizons"]) if horizon is None else horizon
    if str(horizon) not in result["truth"]:
        raise ValueError(
            f"horizon {horizon} was not forecast; there are {', '.join(map(str, sorted(result['horizons'])))}"
        )
    truth = result["truth"][str(horizon)]
    columns = result["columns"][: len(truth["after"])]
    shown = _looks(list(result["models"]), looks)
    with mpl.rc_context(STYLE):
        figure, grid = axes(len(columns), 1, WIDTH, 0.7 + 1.45 * len(columns), sharex=True)
        for c, (ax, name) in enumerate(zip(grid[:, 0], columns, strict=True)):
            _panel(ax, truth, c)
            for model, own in result["models"].items():
                look = shown[model]
                line = own["horizons"][str(horizon)]["example"][c]
                ax.plot(
                    range(len(line)),
                    line,
                    color=look.colour,
                    linestyle=look.dash,
                    label=label(look.label),
                    linewidth=1.2,
                )
            ax.set_title(label(name, 60))
        grid[-1, 0].set_xlabel(f"steps from {truth['origin'].replace('T', ' ')} on")
        figure.supylabel("scaled value", fontsize=10)
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, 1 + len(result["models"]))
        )
        return svg(figure, "forecast", _spoken(result, horizon, shown))


def _panel(ax: Axes, truth: dict[str, Any], column: int) -> None:
    """What was read and what came then; the line at 0 is where forecasts begin."""
    before, after = truth["before"][column], truth["after"][column]
    ax.plot(range(-len(before), len(after)), [*before, *after], color=INK, linewidth=1, alpha=0.75, label="measured")
    ax.axvline(-0.5, color=INK, alpha=0.5, linestyle=":", linewidth=1.2)


def _looks(names: list[str], looks: dict[str, Look]) -> dict[str, Look]:
    known = BASELINES | looks
    fallback = {
        name: Look(name, MORE[i % len(MORE)], DASHES[i // len(MORE) % len(DASHES)]) for i, name in enumerate(names)
    }
    return {name: known.get(name, fallback[name]) for name in names}


def _spoken(result: dict[str, Any], horizon: int, looks: dict[str, Look]) -> str:
    """The figure in words."""
    errors = [
        f"{looks[name].label} {own['horizons'][str(horizon)]['mse']:.3f}" for name, own in result["models"].items()
    ]
    return f"Forecasts of {horizon} steps of {result['data']} and what was measured; mean squared errors over all test windows: {', '.join(errors)}"
