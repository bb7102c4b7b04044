"""Tables of needles in text, BABILong, state tracking, forecasting and lm-eval: for the report and for docs/results.md alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from titans_genomics.report.tables import percent

KINDS = {
    "pk": "S-NIAH PK: a number in repeated sentences",
    "n": "S-NIAH N: a number in text",
    "w": "S-NIAH W: a UUID in text",
}


class Table(NamedTuple):
    """A table with what is to be said before it."""

    title: str
    text: str
    header: list[str]
    rows: list[list[str]]


def niah(result: dict[str, Any], labels: dict[str, str]) -> list[Table]:
    """Needles by length for each kind, one row per model; then BABILong where it was asked."""
    tables, models = [], result["models"]
    for kind in result["kinds"]:
        rows = []
        for name, own in models.items():
            at = {row["length"]: row for row in own["lengths"] if row["kind"] == kind}
            rows.append([labels.get(name, name), *(_needle(at[length]) for length in result["lengths"])])
        asked = [f"{length:,} ({at[length]['samples']:,})" for length in result["lengths"]]  # the same for every model
        trained = next(iter(models.values()))["training"]
        context = f" Models were trained on the task ({trained['steps']:,} steps)." if trained else ""
        tables.append(
            Table(
                KINDS[kind],
                "Share of answers, written greedily, that hold the value, over all depths, in brackets its 95% interval (Wilson); behind the semicolon the share of "
                f"the value's tokens that are the most likely ones when those before are given.{context} Columns: tokens up to the answer, in brackets the "
                "number of prompts.",
                ["model", *asked],
                rows,
            )
        )
    if any(own.get("babilong") for own in models.values()):
        first = next(own["babilong"] for own in models.values() if own.get("babilong"))
        places = [(row["task"], row["length"]) for row in first["cells"]]
        rows = []
        for file, length in places:
            cells = []
            for own in models.values():
                row = next(r for r in own["babilong"]["cells"] if (r["task"], r["length"]) == (file, length))
                cells.append(f"{percent(row['found'])} ({percent(row['chosen'])})")
            rows.append([file, f"{length:,}", *cells])
        tables.append(
            Table(
                "BABILong",
                "Share of questions whose answer, written greedily, is the right one; in brackets: the right one of the file's answers is the likeliest.",
                ["file", "tokens", *(labels.get(name, name) for name in models)],
                rows,
            )
        )
    return tables


def _needle(row: dict[str, Any]) -> str:
    low, high = row["found_ci95"]
    return f"{percent(row['found'])} ({100 * low:.0f}–{100 * high:.0f}); {percent(row['accuracy'])}"


def states(result: dict[str, Any], labels: dict[str, str]) -> list[Table]:
    """State tracking: right states in the last quarter, and whole words, by length."""
    lengths = next(iter(result["models"].values()))["lengths"]
    seeds = (
        f"mean of {len(result['seeds'])} seeds, in brackets the worst and the best"
        if len(result["seeds"]) > 1
        else "one seed"
    )
    text = (
        f"Products in {result['group'].upper()} ({result['order']} elements; {result['letters']} different ones are read), trained on words of up to {result['train_length']} elements, "
        f"{result['words']:,} words per length, {seeds}. Chance: {percent(result['chance'])}."
    )
    tables = []
    for key, title in (
        ("last_quarter", "right products in the last quarter of the word"),
        ("exact", "words without a mistake"),
    ):
        rows = [
            [
                labels.get(name, name),
                f"{own['parameters']:,}",
                *(_spread(row[key], len(result["seeds"]) > 1) for row in own["lengths"]),
            ]
            for name, own in result["models"].items()
        ]
        tables.append(
            Table(
                f"State tracking, {result['group'].upper()}: {title}",
                text if key == "last_quarter" else "",
                ["model", "parameters", *(f"{row['length']:,}" for row in lengths)],
                rows,
            )
        )
    return tables


def _spread(value: dict[str, float], several: bool) -> str:
    text = percent(value["mean"])
    return f"{text} ({percent(value['low'])} to {percent(value['high'])})" if several else text


def forecast(result: dict[str, Any], labels: dict[str, str]) -> list[Table]:
    """MSE and MAE of scaled values by horizon, and published means where the config has them."""
    names = {"last": "last value", "dlinear": "DLinear"} | labels
    rows, seeds = [], max(len(own["seeds"]) for own in result["models"].values())
    for name, own in result["models"].items():
        figures = [own["horizons"][str(horizon)] for horizon in result["horizons"]]
        rows.append(
            [
                names.get(name, name),
                f"{max(figure['parameters'] for figure in figures):,}",
                _trained(figures),
                *(_error(figure, len(own["seeds"]) > 1) for figure in figures),
                _mean(figures),
            ]
        )
    rows += [
        [f"{name} (published)", "", "", *[""] * len(result["horizons"]), f"{own['mse']:.3f} / {own['mae']:.3f}"]
        for name, own in result.get("published", {}).items()
    ]
    steps, most = result["steps"], result["max_windows"]
    windows = f"{most:,} windows, evenly spread over the test split" if most else "all windows of the test split"
    text = (
        f"{result['data']}: {len(result['columns'])} series, {steps['all']:,} steps ({steps['train']:,} train, {steps['validation']:,} validation, {steps['test']:,} test), "
        f"forecasts from {result['lookback']} steps. MSE / MAE of values scaled by mean and deviation of the training split, over {windows}; "
        + (f"means of {seeds} seeds, ± the standard deviation of the MSE between them" if seeds > 1 else "one seed")
        + (f"; {result['filled']:,} missing cells filled by interpolation" if result["filled"] else "")
        + ". Parameters: of the longest horizon. Training: optimiser steps at each horizon, in brackets those after which validation was best."
    )
    return [
        Table(
            f"Forecasting, {result['data']}",
            text,
            ["model", "parameters", "training", *(f"{horizon} steps" for horizon in result["horizons"]), "mean"],
            rows,
        )
    ]


def _trained(figures: list[dict[str, Any]]) -> str:
    """Optimiser steps at each horizon, and the best ones: from the first to the last of horizons and seeds. Empty where nothing is trained."""
    if figures[0]["steps"] is None:
        return ""
    best = [step for figure in figures for step in figure["best_step"]]
    shown = f"{min(best):,}" if min(best) == max(best) else f"{min(best):,}–{max(best):,}"
    return f"{figures[0]['steps']:,} ({shown})"


def _error(figure: dict[str, Any], several: bool) -> str:
    spread = f" (± {figure['mse_deviation']:.3f})" if several and figure.get("mse_deviation") is not None else ""
    return f"{figure['mse']:.3f} / {figure['mae']:.3f}{spread}"


def _mean(figures: Iterable[dict[str, Any]]) -> str:
    figures = list(figures)
    return " / ".join(f"{sum(figure[key] for figure in figures) / len(figures):.3f}" for key in ("mse", "mae"))


def lm_eval(result: dict[str, Any], labels: dict[str, str]) -> list[Table]:
    """Metrics of the harness: a row per task and metric, a column per model."""
    models = result["models"]
    places = [(task, metric) for task, values in next(iter(models.values())).items() for metric in values]
    rows = []
    for task, metric in places:
        cells = []
        for own in models.values():
            found = own[task][metric]
            cells.append(
                ""
                if found["value"] is None
                else f"{found['value']:.4g}" + (f" ± {found['stderr']:.2g}" if found["stderr"] else "")
            )
        rows.append([task, metric, *cells])
    limit = f"; at most {result['limit']:,} documents per task, a quick look" if result["limit"] else ""
    text = f"By the lm-evaluation-harness {result['version']}, with the documents streamed through the memory (no windows){limit}."
    return [Table("lm-eval", text, ["task", "metric", *(labels.get(name, name) for name in models)], rows)]
