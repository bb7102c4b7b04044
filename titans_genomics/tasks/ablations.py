"""Every model of a run in one table, beside Table 5 of the Titans paper: what does each part of the model bring?

Only gathers what the stages left as JSON; nothing is computed anew, and nothing heavy is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from titans_genomics.config import Config, TitansConfig
from titans_genomics.files import read_json, write_json

BASE = "titans"
"""The model that the others are compared with."""

PAPER = "arXiv 2501.00663, Table 5"

PUBLISHED = {
    "LMM": (27.01, 47.83, 92.68),
    "MAC": (26.67, 48.65, 97.95),
    "MAG": (25.70, 48.60, 96.70),
    "MAL": (25.91, 47.87, 96.91),
    "linear memory": (28.49, 46.97, 85.34),
    "without convolution": (28.73, 45.82, 90.28),
    "without momentum": (28.98, 45.49, 87.12),
    "without weight decay": (29.04, 45.11, 85.60),
    "without persistent memory": (27.63, 46.35, 92.49),
}
"""Table 5: perplexity of language, accuracy of reasoning and of long context (%). Weight decay there is forgetting here."""

PARTS = {
    "variant",
    "memory_layers",
    "conv",
    "momentum",
    "forgetting",
    "persistent",
    "segment",
    "window",
    "ff_expansion",
}
"""Keys of ``model`` that a published row may stand for; a model with any other change has none beside it."""

NEEDLE = ("recall", "gain_recall", "gain_bits")


def ablations(config: Config, folder: Path) -> dict[str, Any]:
    """Gather one row per model of the run, and write ``folder``/ablations.json.

    Parameters
    ----------
    config : Config
        The run; its models are those of ``config.models``.
    folder : Path
        The folder of the run's results: train/, evaluate/, downstream/ and needle/, as far as the config asks for them.

    Returns
    -------
    dict
        ``run``, ``base``, ``paper`` (the source of the published figures), ``split``, ``unit`` ("base" or "byte"), ``rows`` and ``table``. Each row: ``model``,
        ``changes`` (its keys of ``compare``), ``parameters``, ``tokens`` (trained on), ``seconds`` (of training),
        ``bits_per_base`` (held out; ``value``, ``ci95``, ``difference`` to ``base`` and its paired interval ``difference_ci95``, where there is one), ``downstream``
        (dataset to ``method``, ``metric``, ``value``, ``ci95``, ``difference`` to ``base`` by the same method, ``difference_ci95``; null where the model has no row), ``needle`` and ``tuned`` (means over lengths and
        depths: ``recall``, ``gain_recall``, ``gain_bits``, ``difference`` of recall; null where it was not asked for), ``published`` (``name``, ``perplexity``,
        ``reasoning``, ``long_context`` of the paper's row; null where it has none). ``table``: the same as text, ``columns`` and ``rows``.

    Raises
    ------
    FileNotFoundError, ValueError
        When a stage has not run yet, or left a file that cannot be read or that lacks a model; the message names the command to run.
    """
    folder = Path(folder)
    trained = {
        name: read_json(folder / "train" / name / "train.json", f"train --model {name}") for name in config.models
    }
    evaluated = read_json(folder / "evaluate" / "evaluate.json", "evaluate")
    bits = _of_models(evaluated["overall"]["models"], config, folder / "evaluate" / "evaluate.json", "evaluate")
    scores = {name: _scores(config, folder, name) for name in config.datasets}
    needles: dict[str, dict[str, Any]] = {"needle": {}, "tuned": {}}
    if config.needle.lengths:
        path = folder / "needle" / "needle.json"
        asked = read_json(path, "needle")
        needles["needle"] = _needles(_of_models(asked["models"], config, path, "needle"))
        if "tuned" in asked:
            needles["tuned"] = _needles(_of_models(asked["tuned"], config, path, "needle"))
    rows = [
        {
            "model": name,
            "changes": config.compare.get(name, {}),
            "parameters": trained[name]["parameters"],
            "tokens": trained[name]["tokens"],
            "seconds": trained[name]["seconds"],
            "bits_per_base": _bits(bits[name], bits[BASE]),
            "downstream": {dataset: found.get(name) for dataset, found in scores.items()},
            **{key: found.get(name) for key, found in needles.items()},
            "published": published(config, name),
        }
        for name in config.models
    ]
    unit = evaluated.get("unit", "base")
    result = {"run": config.run, "base": BASE, "paper": PAPER, "split": evaluated["split"], "unit": unit, "rows": rows}
    result["table"] = _table(result)
    write_json(folder / "ablations.json", result)
    return result


def published(config: Config, name: str) -> dict[str, Any] | None:
    """The row of the paper's Table 5 that a model of the run corresponds to, by what its settings amount to; None without one.

    One part may be missing at a time. A memory that is deeper or shallower than the run's own has no row, the linear one excepted.
    """
    if name == "transformer":
        return None
    changes = config.compare.get(name, {})
    model = TitansConfig.model_validate(config.model.model_dump() | changes)
    row = _row(model, max(2, config.model.memory_layers))
    if row not in PUBLISHED or set(changes) - PARTS:  # a baseline has no row either
        return None
    return {"name": row, **dict(zip(("perplexity", "reasoning", "long_context"), PUBLISHED[row], strict=True))}


def text(result: dict[str, Any]) -> str:
    """The table for a terminal: columns side by side, numbers to the right."""
    lines = [result["table"]["columns"], *result["table"]["rows"]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [
        "  ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]  # fmt: skip
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*(line.rstrip() for line in shown), "", f"paper: {result['paper']}"])


def _row(model: TitansConfig, depth: int) -> str | None:
    """The name in `PUBLISHED` of a model; ``depth``: memory layers of the whole one."""
    missing = [
        row
        for row, absent in {
            "linear memory": model.memory_layers == 1,
            "without convolution": model.conv == 0,
            "without momentum": not model.momentum,
            "without weight decay": not model.forgetting,
            "without persistent memory": model.variant != "lmm" and model.persistent == 0,  # LMM has none to be without
        }.items()
        if absent
    ]
    if len(missing) > 1 or model.memory_layers not in (1, depth):
        return None
    if not missing:
        return model.variant.upper()
    of = "mac" if missing == ["without persistent memory"] else "lmm"
    return missing[0] if model.variant == of else None


def _bits(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    paired = own.get(f"difference_to_{BASE}", {})
    return {
        "value": own["bits_per_base"],
        "ci95": own.get("ci95"),
        "difference": own["bits_per_base"] - base["bits_per_base"],
        "difference_ci95": paired.get("ci95"),
    }


def _scores(config: Config, folder: Path, dataset: str) -> dict[str, dict[str, Any]]:
    """The headline score of each model on a dataset, by the first of the config's methods that has a row of it."""
    table = read_json(folder / "downstream" / dataset / "table.json", f"downstream table --dataset {dataset}")
    metric = table["dataset"]["metric"]
    rows = {(row["method"], row["model"]): row for row in table["rows"]}
    rows = {key: row for key, row in rows.items() if metric in row["test"]}  # it may not be defined
    found: dict[str, dict[str, Any]] = {}
    for name in config.models:
        method = next((method for method in config.downstream.methods if (method, name) in rows), None)
        if method is None:
            continue
        score, base = rows[method, name]["test"][metric], rows.get((method, BASE))
        found[name] = {
            "method": method,
            "metric": metric,
            "value": score["mean"],
            "ci95": score["ci95"],
            "difference": None if base is None else score["mean"] - base["test"][metric]["mean"],
            "difference_ci95": rows[method, name].get("differences", {}).get(BASE, {}).get("ci95"),
        }
    return found


def _needles(models: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Means over lengths and depths of each model."""
    means = {name: {key: mean(cell[key] for cell in one["cells"]) for key in NEEDLE} for name, one in models.items()}
    return {name: found | {"difference": found["recall"] - means[BASE]["recall"]} for name, found in means.items()}


# --------------------------------------------------------------------------------------------- table


def _table(result: dict[str, Any]) -> dict[str, Any]:
    """Column titles, and one line of text per row."""
    rows = result["rows"]
    datasets = list(rows[0]["downstream"])
    columns = [
        "model",
        "changes",
        "parameters",
        "tokens",
        "minutes",
        f"bits per {result['unit']}",
        f"less {result['base']}",
    ]
    several = {}
    for dataset in datasets:
        known = [row["downstream"][dataset] for row in rows if row["downstream"][dataset]]
        methods = {one["method"] for one in known}
        several[dataset] = len(methods) > 1
        what = [one["metric"] for one in known[:1]] + (list(methods) if len(methods) == 1 else [])
        columns.append(f"{dataset} ({', '.join(what)})" if what else dataset)
    needles = [key for key in ("needle", "tuned") if rows[0][key]]
    for key in needles:
        name = "needle recall" if key == "needle" else "needle recall, tuned"
        columns += [name, "above control"]
    columns += ["paper", "perplexity", "reasoning", "long context"]
    body = []
    for row in rows:
        bits = row["bits_per_base"]
        line = [row["model"], _changes(row["changes"]), f"{row['parameters']:,}", f"{row['tokens']:,}"]
        line += [f"{row['seconds'] / 60:.1f}", f"{bits['value']:.4f}{_interval(bits['ci95'], 4)}"]
        line.append(
            ""
            if row["model"] == result["base"]
            else f"{bits['difference']:+.4f}{_interval(bits['difference_ci95'], 4, '+')}"
        )
        for dataset in datasets:
            score = row["downstream"][dataset]
            method = f" {score['method']}" if score and several[dataset] else ""
            line.append(f"{score['value']:.3f}{_interval(score['ci95'], 3)}{method}" if score else "")
        for key in needles:
            line += [f"{row[key]['recall']:.1%}", f"{row[key]['gain_recall']:+.1%}"]
        paper = row["published"]
        line += (
            [paper["name"], *(f"{paper[k]:.2f}" for k in ("perplexity", "reasoning", "long_context"))]
            if paper
            else [""] * 4
        )
        body.append(line)
    return {"columns": columns, "rows": body}


def _changes(changes: dict[str, Any]) -> str:
    return ", ".join(
        f"{key}: {json.dumps(value) if not isinstance(value, str) else value}" for key, value in changes.items()
    )


def _interval(bounds: list[float] | None, digits: int, sign: str = "") -> str:
    return "" if bounds is None else f" ({bounds[0]:{sign}.{digits}f} to {bounds[1]:{sign}.{digits}f})"


# --------------------------------------------------------------------------------------------- files


def _of_models(found: dict[str, Any], config: Config, path: Path, command: str) -> dict[str, Any]:
    """Figures by model. Raises ValueError when those of one of the run's models are not there."""
    for name in config.models:
        if name not in found:
            raise ValueError(f"{path}: has no figures of the model {name!r}; run `titans-genomics {command}` again")
    return found
