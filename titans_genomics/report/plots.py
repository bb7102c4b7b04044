"""The report's plots as inline SVG: text and axes take the colour of the page, so that they read on light and dark."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titans_genomics.config import Config

INK = "#010203"
"""Stands for the page's own text colour; replaced by ``currentColor`` in the SVG."""

COLOURS = {
    "titans": "#0f8b8d", "transformer": "#d17a00", "markov": "#8a63d2", "uniform": "#8c8c8c", "kmer": "#8a63d2", "cnn": "#9c6b30",
}  # fmt: skip
"""Readable on white and on near-black, and apart for colour-blind readers."""

MORE = ("#c2456b", "#4f8f2f", "#3f7fd0", "#9c6b30", "#7d57a6", "#7a7a7a")
"""Colours of the models of ``compare``; when there are more of them they come again with other dashes."""

VARIANTS = {"transformer": "Transformer", "gated_deltanet": "Gated DeltaNet", "diagonal": "diagonal recurrence"}
"""Names of the variants that are baselines; the others are Titans."""

DASHES = ("-", "--", ":", "-.")

LAYERS = ("#0f8b8d", "#d17a00", "#8a63d2", "#c2456b", "#4f8f2f", "#3f7fd0", "#9c6b30", "#7a7a7a")

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # $ in a name is a letter
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Look:
    """How a model, or what stands beside it, is shown everywhere in a report."""

    label: str
    colour: str
    dash: str = "-"


def looks(config: Config) -> dict[str, Look]:
    """The look of each model of a run by its name, of models of the Hub, and of the baselines.

    A model of ``compare`` of which only the variant is different is named by it, "Titans MAC"; any other by its own name.
    """

    def variant(name: str) -> str:
        return VARIANTS.get(name, f"Titans {name.upper()}")

    found = {
        "titans": Look(variant(config.model.variant), COLOURS["titans"]),
        "transformer": Look("Transformer", COLOURS["transformer"]),
        "markov": Look("Markov", COLOURS["markov"]),
        "uniform": Look("uniform", COLOURS["uniform"]),
        "kmer": Look("k-mers", COLOURS["kmer"]),
        "cnn": Look("CNN", COLOURS["cnn"]),
    }
    others = [*config.compare, *(entry.name for entry in config.downstream.hub)]
    for i, name in enumerate(others):
        changes = config.compare.get(name, {})
        own = variant(changes["variant"]) if set(changes) == {"variant"} else label(name)
        taken = {look.label for look in found.values()}
        found[name] = Look(
            own if own not in taken else f"{own} ({name})", MORE[i % len(MORE)], DASHES[(i // len(MORE)) % len(DASHES)]
        )
    return found


def svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as an SVG element whose ids start with ``name``, so that several can stand in one page."""
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's browser has the letters
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = target.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


def label(name: str, most: int = 28) -> str:
    """A name as text in a plot, of at most so many letters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    plain = plain if len(plain) <= most else plain[: most - 1] + "…"
    return (" " if plain.startswith("_") else "") + plain  # legends leave out what begins with _


def axes(rows: int, columns: int, width: float, height: float, **keywords: Any) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` inches, and its axes: array of shape (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **keywords)


def curves(
    training: dict[str, list[dict[str, float]]],
    references: dict[str, float],
    looks: dict[str, Look],
    unit: str = "base",
) -> str:
    """Bits per ``unit`` over training tokens: every logged step, and validation as marked points.

    ``references`` are horizontal lines: name to bits.
    """
    few = len(training) <= 3
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 1, 7.2, 3.4 if few else 4.4)
        ax: Axes = grid[0, 0]
        for model, rows in training.items():
            look = looks[model]
            x, y = _column(rows, "tokens", "bits_per_base")
            own = f"{look.label}, training" if few else None
            ax.plot(x, y, color=look.colour, linestyle=look.dash, alpha=0.45 if few else 0.2, linewidth=1, label=own)
            x, y = _column(rows, "tokens", "val_bits_per_base")
            own = f"{look.label}, validation" if few else look.label
            ax.plot(x, y, color=look.colour, linestyle=look.dash, marker="o", markersize=4, label=own)
        for name, bits in references.items():
            ax.axhline(bits, color=looks[name.split()[0].lower()].colour, linestyle="--", linewidth=1.2, label=name)
        values = [v for rows in training.values() for v in _column(rows, "tokens", "bits_per_base")[1]]
        if values:
            low, high = min([*values, *references.values()]), min(max(values), 2.1 if unit == "base" else 8.2)
            ax.set_ylim(low - 0.02, high + 0.02)
        ax.set_xlabel("training tokens")
        ax.set_ylabel(f"bits per {unit}" + ("" if few else " (points: validation)"))
        _legend(ax, len(training))
        ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        return svg(figure, "curves", f"Bits per {unit} over training")


def optimisation(training: dict[str, list[dict[str, float]]], looks: dict[str, Look]) -> str:
    """Learning rate, gradient norm and speed over optimiser steps."""
    panels = (
        ("lr", "learning rate"),
        ("grad_norm", "gradient norm before clipping"),
        ("tokens_per_second", "tokens per second"),
    )
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 3, 10, 2.4)
        for ax, (key, title) in zip(grid[0], panels, strict=True):
            for model, rows in training.items():
                look = looks[model]
                ax.plot(*_column(rows, "step", key), color=look.colour, linestyle=look.dash, label=look.label)
            ax.set_title(title)
            ax.set_xlabel("optimiser step")
            if key != "lr":
                ax.set_ylim(bottom=0)
        if 1 < len(training) <= 3:  # more of them have their colours in the plot above
            grid[0, 0].legend()
        return svg(figure, "optimisation", "Learning rate, gradient norm and speed")


def gates(rows: list[dict[str, float]]) -> str | None:
    """Mean gates and surprise of each layer over training; None when the model has no memory."""
    panels = (
        ("alpha", "forgetting α"),
        ("eta", "surprise decay η"),
        ("theta", "step size θ"),
        ("surprise", "surprise"),
    )
    keys = list(rows[0]) if rows else []
    layers = sorted({int(k.split("/")[1]) for k in keys if k.startswith("alpha/")})
    if not layers:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 4, 10, 2.4)
        for ax, (key, title) in zip(grid[0], panels, strict=True):
            for layer in layers:
                x, y = _column(rows, "step", f"{key}/{layer}")
                ax.plot(x, y, color=LAYERS[layer % len(LAYERS)], label=f"layer {layer + 1}")
            ax.set_title(title, pad=14)  # above the exponent of the axis
            ax.set_xlabel("optimiser step")
            ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
        grid[0, 0].legend(ncols=1 + len(layers) // 5)
        return svg(figure, "gates", "Gates and surprise per layer over training")


def bars(
    groups: dict[str, list[tuple[str, str, float, tuple[float, float] | None]]],
    guessing: float,
    looks: dict[str, Look],
    unit: str = "base",
) -> str:
    """Held-out bits per ``unit``. Bars hang from the bits of ``guessing``, 2 of a base: the longer, the more the model knows.

    Parameters
    ----------
    groups : dict
        Source name to a list of (label, kind of model, bits, 95% interval or None).
    """
    count = sum(len(entries) for entries in groups.values())
    with mpl.rc_context(STYLE):
        figure, grid = axes(
            len(groups),
            1,
            7.2,
            0.5 + 0.36 * count + 0.7 * len(groups),
            height_ratios=[len(entries) + 0.4 for entries in groups.values()],
        )
        for ax, (source, entries) in zip(grid[:, 0], groups.items(), strict=True):
            _hanging_bars(ax, entries, guessing, looks)
            if len(groups) > 1:
                ax.set_title(label(source, 80), fontweight="bold")
        grid[-1, 0].set_xlabel(f"bits per {unit}; {guessing:g} is guessing, the further left the better")
        return svg(figure, "bars", f"Held-out bits per {unit} of each model")


def _hanging_bars(
    ax: Axes,
    entries: list[tuple[str, str, float, tuple[float, float] | None]],
    guessing: float,
    looks: dict[str, Look],
) -> None:
    """Horizontal bars from ``guessing`` to the bits of each entry, with intervals and values."""
    lowest = highest = guessing
    for y, (_, kind, bits, interval) in enumerate(entries):
        ax.barh(y, guessing - bits, left=bits, color=looks[kind].colour, height=0.72)
        low, high = interval or (bits, bits)
        ax.plot((low, high), [y, y], color=INK, linewidth=1.2)
        place, side, align = (low, -6, "right") if bits <= guessing else (high, 6, "left")
        ax.annotate(f"{bits:.4f}", (place, y), (side, 0), textcoords="offset points", ha=align, va="center")
        lowest, highest = min(lowest, low), max(highest, high)
    room = 0.16 * max(highest - lowest, 0.01)
    ax.set_xlim(lowest - room if lowest < guessing else guessing, highest + room if highest > guessing else guessing)
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.set_yticks(range(len(entries)), [label for label, *_ in entries])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.axvline(guessing, color=INK, linewidth=1)


def context(
    lines: dict[str, Sequence[tuple[float, float]]],
    trained_at: int | None,
    looks: dict[str, Look],
    unit: str = "base",
) -> str:
    """Bits per ``unit`` as a function of the position in the context (1-based, log axis).

    ``lines`` maps models and "markov" to (position, bits) pairs; ``trained_at`` marks the training context.
    """
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 1, 7.2, 3.2 if len(lines) <= 4 else 4.4)
        ax: Axes = grid[0, 0]
        for name, points in lines.items():
            look = looks[name]
            style = {"linestyle": look.dash, "marker": "o", "markersize": 3.5}
            if name == "markov":
                style = {"linestyle": "--", "linewidth": 1.2}
            ax.plot([p for p, _ in points], [b for _, b in points], color=look.colour, label=look.label, **style)
        if trained_at:
            ax.axvline(trained_at, color=INK, alpha=0.5, linestyle=":", linewidth=1.2)
            ax.annotate(
                " training context",
                (trained_at, 1),
                xycoords=("data", "axes fraction"),
                va="top",
                alpha=0.7,
                fontsize=9,
            )
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        ax.set_xlabel("bases of context already read" if unit == "base" else "tokens of context already read")
        ax.set_ylabel(f"bits per {unit}")
        _legend(ax, len(lines))
        return svg(figure, "context", f"Bits per {unit} by context position")


def scores(entries: Sequence[tuple[str, str, float, tuple[float, float] | None]], looks: dict[str, Look]) -> str:
    """Accuracy of the species task: (label, kind, accuracy, 95% interval) as points with intervals."""
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 1, 7.2, 0.6 + 0.3 * len(entries))
        ax: Axes = grid[0, 0]
        for y, (_, kind, value, interval) in enumerate(entries):
            if interval:
                ax.plot(interval, [y, y], color=looks[kind].colour, linewidth=2)
            ax.plot(value, y, marker="o", color=looks[kind].colour, markersize=6)
        ax.set_yticks(range(len(entries)), [label for label, *_ in entries])
        ax.set_ylim(len(entries) - 0.5, -0.5)
        ax.set_xlim(right=1.005)
        ax.set_xlabel("accuracy")
        return svg(figure, "scores", "Accuracy of the species task")


def scores_by_length(
    lines: dict[str, tuple[str, list[tuple[int, float, tuple[float, float] | None]]]],
    chance: float,
    looks: dict[str, Look],
) -> str:
    """Accuracy of the species task by sequence length: kind to label and (bases, accuracy, 95% interval) points."""
    with mpl.rc_context(STYLE):
        figure, grid = axes(1, 1, 7.2, 3.2)
        ax: Axes = grid[0, 0]
        for kind, (text, points) in lines.items():
            look = looks[kind]
            for length, _, interval in points:
                if interval:
                    ax.plot([length, length], interval, color=look.colour, linewidth=2, alpha=0.5)
            ax.plot([p[0] for p in points], [p[1] for p in points], color=look.colour, marker="o", label=text)
        ax.axhline(chance, color=looks["uniform"].colour, linestyle="--", linewidth=1.2, label="chance")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        lengths = sorted({length for _, points in lines.values() for length, *_ in points})
        ax.set_xticks(lengths, [f"{length:,}" for length in lengths])
        ax.set_ylim(top=1.02)
        ax.set_xlabel("bases of a sequence")
        ax.set_ylabel("accuracy")
        ax.legend()
        return svg(figure, "scores", "Accuracy of the species task by sequence length")


def _legend(ax: Axes, models: int) -> None:
    """Within the axes; of many models beside them."""
    if models <= 4:
        ax.legend(ncols=2 if models > 1 else 1)
    else:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _column(rows: list[dict[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The rows that have both values."""
    pairs = [(row[x], row[y]) for row in rows if x in row and y in row]
    return [a for a, _ in pairs], [b for _, b in pairs]
