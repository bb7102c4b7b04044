"""Labelled datasets in the report: what each is, what of its test set stands in train, our rows and the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from titans_genomics.report.plots import INK, STYLE, Look, axes, label, svg
from titans_genomics.report.tables import METRIC_NAMES, hours, matrix, percent

METHODS = {
    "finetune": "fine-tuned",
    "lora": "fine-tuned, LoRA",
    "scratch": "from scratch",
    "probe": "linear probe",
    "knn": "nearest neighbours",
    "cnn": "CNN of GenomicBenchmarks",
    "kmer": "k-mer counts, linear",
}

MANY_CLASSES = 20
"""Classes above which the confusion matrix is left to score.json."""

MOST_PUBLISHED = 12
"""Published figures in the plot; the table has all."""


def best_details(folder: Path, table: dict[str, Any]) -> dict[str, Any] | None:
    """Confusion matrix and calibration of the best row of a table, from its score.json; None of what is no classification.

    Parameters
    ----------
    folder : Path
        ``results/RUN/downstream/DATASET``.
    table : dict
        Its table.json.

    Raises
    ------
    FileNotFoundError, ValueError
        The score.json is not there, or cannot be read.
    """
    if table["dataset"]["task"] != "classification" or not table["rows"]:
        return None
    metric = table["dataset"]["metric"]
    best = max(table["rows"], key=lambda row: row["test"].get(metric, {"mean": float("-inf")})["mean"])
    path = folder / best["method"] / best["model"] / "score.json"
    command = (
        f"titans-genomics downstream score --dataset {folder.name} --method {best['method']} --model {best['model']}"
    )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; run `{command}`")
    try:
        score = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); run `{command}` again") from None
    return {key: score[key] for key in ("method", "model", "confusion", "calibration")}


def benchmark(number: int, table: dict[str, Any], looks: dict[str, Look]) -> dict[str, Any]:
    """Everything that the page says of one dataset; ``number`` keeps the names within its plots apart from others'."""
    dataset, labels = table["dataset"], {name: look.label for name, look in looks.items()}
    metric, best = dataset["metric"], table.get("best")
    metrics = list(dict.fromkeys(key for row in table["rows"] for key in row["test"]))
    part = {
        "name": dataset["name"],
        "text": dataset_text(dataset),
        "leaks": leak_text(dataset),
        "leaky": bool(dataset["leaks"]["near"]),
        "warnings": dataset["warnings"],
        "protocol": protocol_text(table),
        "metric": METRIC_NAMES[metric],
        "metrics": [METRIC_NAMES[key] for key in metrics],
        "rows": [_row(row, metric, metrics, labels) for row in table["rows"]],
        "published": table["published"],
        "points": _points(number, table, looks),
        "best": None,
        "matrix": None,
        "calibration": None,
        "classes": dataset["classes"],
    }
    if best is not None:
        part["best"] = row_name(best, labels)
        part["calibration"] = _calibration(number, best["calibration"], dataset["name"])
        part["ece"] = best["calibration"]["ece"]
        if len(dataset["classes"]) <= MANY_CLASSES:
            part["matrix"] = matrix(dataset["classes"], best["confusion"])
    return part


def row_name(row: dict[str, Any], labels: dict[str, str]) -> str:
    """What a row is called: the model and what is done with it; a baseline by itself."""
    method = METHODS[row["method"]]
    return method if row["model"] == "none" else f"{labels.get(row['model'], row['model'])}, {method}"


def dataset_text(dataset: dict[str, Any]) -> str:
    """What a dataset is."""
    suite = f", of {dataset['suite']}" if dataset.get("suite") else ""
    task, outputs = dataset["task"], dataset["classes"]
    shown = ", ".join(outputs[:6]) + (f" and {len(outputs) - 6} more" if len(outputs) > 6 else "")
    what = {
        "classification": f"{len(outputs)} classes ({shown})",
        "multilabel": f"{len(outputs)} labels ({shown})",
        "regression": f"regression of {shown}",
    }[task]
    counts, length = dataset["sequences"], dataset["length"]
    sizes = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "validation", "test") if counts.get(split))
    long = (
        f"{length['min']:,}"
        if length["min"] == length["max"]
        else f"{length['min']:,} to {length['max']:,} (median {length['median']:,.0f})"
    )
    cut = f"; {dataset['cut']:,} were cut to their middle" if dataset.get("cut") else ""
    text = f"{what[0].upper()}{what[1:]}{suite}. Sequences: {sizes}; {long} bases{cut}."
    if dataset.get("limited_to"):
        text += f" Only up to {dataset['limited_to']:,} sequences of each split were used: a quick look, not to be compared with published figures."
    return text


def leak_text(dataset: dict[str, Any]) -> str:
    """What of the test set stands in train."""
    leaks = dataset["leaks"]
    if not leaks["near"]:
        return f"None of the {leaks['test']:,} test sequences stands in the training set, on either strand."
    return (
        f"Of {leaks['test']:,} test sequences {leaks['verbatim']:,} ({percent(leaks['verbatim_share'])}) stand verbatim in the training set, and "
        f"{leaks['near']:,} ({percent(leaks['near_share'])}, those included) with at least half of their length, on either strand. "
        "The de-duplicated score is without them."
    )


def protocol_text(table: dict[str, Any]) -> str:
    """How the rows came about."""
    row = table["rows"][0]
    seeds = [str(own["seed"]) for own in row["seeds"]]
    drawn = f"Means over seeds {', '.join(seeds)}" if len(seeds) > 1 else f"Seed {seeds[0]}"
    return f"Protocol {row['protocol']}: {row['label']}. {drawn}; intervals are 95%, over test sequences."


def figure(score: dict[str, Any] | None, metric: str) -> dict[str, Any] | None:
    """``mean``, ``sd`` and ``ci95`` of a metric; None where it is not defined, or where there is no such sequence."""
    return (score or {}).get(metric)


def _row(row: dict[str, Any], metric: str, metrics: list[str], labels: dict[str, str]) -> dict[str, Any]:
    cost = row["cost"]
    return {
        "name": row_name(row, labels),
        "trial": row.get("trial"),
        "test": figure(row["test"], metric),
        "deduplicated": figure(row["deduplicated"], metric),
        "difference": row.get("differences", {}).get("kmer"),
        "parameters": cost["parameters"],
        "trained": cost["trained_parameters"],
        "cost": hours(cost["seconds"], cost["hardware"]),
        "rate": cost["sequences_per_second"],
        "all": [figure(row["test"], key) for key in metrics],
    }


# --------------------------------------------------------------------------------------------- plots


def _points(number: int, table: dict[str, Any], looks: dict[str, Look]) -> str:
    """Score of every row with its interval; hollow without the test sequences that stand in train; published ones beneath."""
    metric, labels = table["dataset"]["metric"], {name: look.label for name, look in looks.items()}
    rows = [row for row in table["rows"] if figure(row["test"], metric)]
    published = table["published"][:MOST_PUBLISHED]
    names = [label(row_name(row, labels), 48) for row in rows]
    names += [label(f"{entry['model']} (published)", 48) for entry in published]
    with mpl.rc_context(STYLE):
        figure_, grid = axes(1, 1, 7.6, 0.8 + 0.3 * len(names))
        ax = grid[0, 0]
        for y, row in enumerate(rows):
            look = looks.get(row["method"] if row["model"] == "none" else row["model"], looks["uniform"])
            for part, shift, face in (("test", -0.12, look.colour), ("deduplicated", 0.12, "none")):
                found = figure(row[part], metric)
                if found is None or (part == "deduplicated" and row[part] == row["test"]):
                    continue
                if found["ci95"]:
                    ax.plot(found["ci95"], [y + shift] * 2, color=look.colour, linewidth=2, alpha=0.6)
                ax.plot(found["mean"], y + shift, "o", color=look.colour, markerfacecolor=face, markersize=6)
        for y, entry in enumerate(published, len(rows)):
            ax.plot(entry["value"], y, "D", color=looks["uniform"].colour, markersize=5)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlabel(METRIC_NAMES[metric])
        return svg(figure_, f"points{number}", f"{METRIC_NAMES[metric]} on {table['dataset']['name']}")


def _calibration(number: int, calibration: dict[str, Any], name: str) -> str:
    """How often predictions are right by how sure they are; on the diagonal they know what they know."""
    bins = [own for own in calibration["bins"] if own["count"]]
    total = sum(own["count"] for own in bins)
    with mpl.rc_context(STYLE):
        figure_, grid = axes(1, 1, 4.2, 3.4)
        ax = grid[0, 0]
        ax.plot([0, 1], [0, 1], color=INK, alpha=0.4, linestyle="--", linewidth=1.2)
        ax.bar(
            [own["from"] for own in bins],
            [own["count"] / total for own in bins],
            [own["to"] - own["from"] for own in bins],
            align="edge",
            color=INK,
            alpha=0.12,
        )
        ax.plot([own["confidence"] for own in bins], [own["accuracy"] for own in bins], color="#0f8b8d", marker="o")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("probability of the predicted class")
        ax.set_ylabel("share of them that are right")
        return svg(figure_, f"calibration{number}", f"Calibration on {name}")
