"""The plots of docs/studies.md from the results file: `python -m benchmarks.study_plots`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.machine import ROOT
from benchmarks.titans_study import RESULTS, STUDIES, changed

COLOURS = {64: "#0f8b8d", 128: "#d17a00", 256: "#8a63d2"}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def runs_of(results: dict[str, Any], study: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(what a run changes, its record), for the runs that were made."""
    made = {json.dumps(record["changed"], sort_keys=True): record for record in results["runs"]}
    plan = [(changes, made.get(json.dumps(changed(changes), sort_keys=True))) for changes in STUDIES[study]]
    return [(changes, record) for changes, record in plan if record and record["validation"]]


def chunk(results: dict[str, Any], path: Path) -> None:
    """Held-out bits per base after the last step against the chunk, every seed a point."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    ax = figure.subplots()
    for study, marker, name in (("chunk", "o", "seed 1"), ("seeds", "x", "other seeds")):
        runs = [(c, r) for c, r in runs_of(results, study) if study == "chunk" or c["seed"] != 1]
        x, y = [c["model.chunk"] for c, _ in runs], [r["validation"][-1][1] for _, r in runs]
        ax.plot(x, y, marker, color=COLOURS[64], linestyle="-" if study == "chunk" else "", label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks := [c["model.chunk"] for c in STUDIES["chunk"]], [str(tick) for tick in ticks])
    ax.set_xlabel("chunk, tokens")
    ax.set_ylabel("validation, bits per base")
    ax.set_title("Loss after 300 steps (2.46M tokens) by chunk")
    ax.legend()
    figure.savefig(path, dpi=110)


def stability(results: dict[str, Any], path: Path) -> None:
    """Training loss and largest inner step against optimiser steps."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for ax, what, title in zip(
        figure.subplots(1, 2),
        ("train", "inner_step"),
        ("training loss, bits per base (mean of 5 points)", "largest inner step of both layers"),
        strict=True,
    ):
        for changes, record in runs_of(results, "stability"):
            tokens, values = np.array(record[what]).T
            steps = tokens * record["steps"] / record["tokens"]
            if what == "train":
                steps, values = (np.convolve(x, np.ones(5) / 5, "valid") for x in (steps, values))
            half = changes["train.precision"] == "bf16-mixed"
            b = changes["model.chunk"]
            style = {"color": COLOURS[b], "linestyle": "--" if half else "-", "linewidth": 1.1}
            ax.plot(steps, values, label=f"{b}, {'bfloat16' if half else 'float32'}", **style)
        ax.set_title(title)
        ax.set_xlabel("optimiser steps")
        if what == "inner_step":
            ax.set_ylim(bottom=0)
        else:
            ax.set_ylim(top=2.1)
            ax.legend(title="chunk, precision", ncols=2)
    figure.savefig(path, dpi=100)


def main() -> None:
    results = json.loads(RESULTS.read_text())
    with mpl.rc_context(STYLE):
        chunk(results, ROOT / "docs" / "study-chunk.png")
        stability(results, ROOT / "docs" / "study-stability.png")


if __name__ == "__main__":
    main()
