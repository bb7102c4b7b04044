"""Gather what the stages left, write metrics.json and render report.html."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import jinja2
import yaml

from titans_genomics import __version__
from titans_genomics.config import Config
from titans_genomics.files import read_json, write_text
from titans_genomics.report import (
    benchmarks,
    forecast_plot,
    niah_plot,
    plots,
    states_plot,
    tables,
    task_tables,
    zero_shot,
)
from titans_genomics.report.needle_plot import heat_map

STAGE_FILES = {
    "data": "tokens/manifest.json",
    "evaluate": "evaluate/evaluate.json",
    "species": "species/species.json",
    "needle": "needle/needle.json",
    "variants": "variants/variants.json",
    "ablations": "ablations.json",
    "lm_eval": "lm_eval/lm_eval.json",
    "niah": "niah/niah.json",
    "states": "states/states.json",
    "forecast": "forecast/forecast.json",
}


def report(config: Config, folder: Path, out: Path) -> dict[str, Any]:
    """Write ``out``/report.html and ``out``/metrics.json from the results of the stages before.

    Parameters
    ----------
    config : Config
        The run.
    folder : Path
        The folder of the run's results, with tokens/, train/, evaluate/ and what else the config asks for: species/, downstream/,
        needle/, variants/, ablations.json.
    out : Path
        Where the two files go.

    Returns
    -------
    dict
        The content of metrics.json.

    Raises
    ------
    FileNotFoundError, ValueError
        When a stage has not run yet, or left a file that cannot be read; the message names the command to run.
    """
    folder, out = Path(folder), Path(out)
    metrics = collect(config, folder)
    names = list(metrics["train"])
    curves = {name: read_curve(folder / "train" / name / "metrics.csv") for name in names}
    page = render(config, metrics, curves)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_text(out / "report.html", page)
    return metrics


def collect(config: Config, folder: Path) -> dict[str, Any]:
    """Every number of the run in one dict, the content of metrics.json.

    ``bits_per_base`` is its summary: held-out bits per base of uniform, Markov and each model, by source and overall.
    """
    asked = {
        "data": config.data is not None,
        "evaluate": config.trained,
        "species": bool(config.species.classes),
        "needle": bool(config.needle.lengths),
        "variants": bool(config.variants.sets),
        "ablations": config.ablated,
        "lm_eval": bool(config.lm_eval.tasks),
        "niah": config.niah.asked,
        "states": "states" in config.tasks,
        "forecast": "forecast" in config.tasks,
    }
    commands = {"data": "tokenize", "lm_eval": "lm-eval"}
    stages = {
        key: read_json(folder / STAGE_FILES[key], commands.get(key, key)) if wanted else None
        for key, wanted in asked.items()
    }
    return {
        "run": config.run,
        "seed": config.seed,
        "version": __version__,
        "bits_per_base": _bits_per_base(stages["evaluate"]) if config.trained else None,
        "train": {
            name: read_json(folder / "train" / name / "train.json", f"train --model {name}")
            for name in (config.models if config.trained else ())
        },
        "downstream": {name: _labelled(folder / "downstream" / name) for name in config.datasets} or None,
        **stages,
        "data": {k: v for k, v in stages["data"].items() if k not in ("config", "runs")} if stages["data"] else None,
        "config": config.model_dump(mode="json"),
    }


def _labelled(folder: Path) -> dict[str, Any]:
    """The table.json of a dataset, with ``best``: confusion matrix and calibration of its best row."""
    table = read_json(folder / "table.json", f"downstream table --dataset {folder.name}")
    return table | {"best": benchmarks.best_details(folder, table)}


def _bits_per_base(evaluated: dict[str, Any]) -> dict[str, dict[str, float]]:
    parts = {**evaluated["sources"], "overall": evaluated["overall"]}
    return {
        name: {kind: part[kind]["bits_per_base"] for kind in ("uniform", "markov")}
        | {model: figures["bits_per_base"] for model, figures in part["models"].items()}
        for name, part in parts.items()
    }


def read_curve(path: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv as numbers; empty and non-finite fields are left out. No file gives no rows."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if math.isfinite(value)} for row in rows]


def render(config: Config, metrics: dict[str, Any], curves: dict[str, list[dict[str, float]]]) -> str:
    """The page: text, tables and inline plots in one HTML string that refers to nothing outside itself."""
    looks = plots.looks(config)
    unit = tables.counted_in(metrics["data"]["sources"] if metrics["data"] else ())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("titans_genomics.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "count": tables.count,
        "percent": tables.percent,
        "number": tables.number,
        "large": tables.large,
        "duration": tables.duration,
        "interval": tables.interval,
    }
    return environment.get_template("template.html").render(
        title=config.report.title or config.run,
        lead=tables.lead(config, metrics),
        figures=tables.headline(metrics) if metrics["evaluate"] else [],
        data=metrics["data"],
        dropped=tables.dropped(metrics["data"]) if metrics["data"] else [],
        unit=unit,
        text=unit == "byte",
        config=config,
        **(_of_training(config, metrics, curves, looks) if metrics["evaluate"] else UNTRAINED),
        tasks=_tasks(metrics, looks),
        facts=tables.facts(config, metrics),
        config_yaml=yaml.safe_dump(metrics["config"], sort_keys=False),
        version=__version__,
    )


UNTRAINED: dict[str, Any] = {
    "species": None,
    "datasets": [],
    "needle_text": None,
    "variants": [],
    "ablations": None,
    "training": None,
}
"""What the page has to show of a run in which nothing was trained on the next token."""


def _of_training(
    config: Config, metrics: dict[str, Any], curves: dict[str, list[dict[str, float]]], looks: dict[str, plots.Look]
) -> dict[str, Any]:
    """What the page shows of training, held-out sequence and what was measured on sequences."""
    labels = {name: look.label for name, look in looks.items()}
    evaluated, species, needle = metrics["evaluate"], metrics["species"], metrics["needle"]
    main = next(iter(evaluated["sources"].values()))
    guessing, unit = main["uniform"]["bits_per_base"], tables.unit_of(evaluated)
    references = {"uniform": guessing}
    learned = [source["name"] for source in metrics["data"]["sources"] if source["weight"]]
    if (
        len(learned) == 1 and learned[0] in evaluated["sources"]
    ):  # else the curves are of a mixture that no Markov model was fitted on
        references["Markov (held out)"] = evaluated["sources"][learned[0]]["markov"]["bits_per_base"]
    drawn = {
        "curves": plots.curves(curves, references, looks, unit),
        "optimisation": plots.optimisation(curves, looks),
        "gates": plots.gates(curves["titans"]),
        "bars": plots.bars(tables.bar_groups(evaluated, looks), guessing, looks, unit),
        "context": plots.context(tables.context_lines(main), evaluated["train_context"], looks, unit),
        "scores": _species_plot(species, looks) if species else None,
        "needle": heat_map(needle, labels) if needle else None,
    }
    return {
        "training": tables.training(metrics["train"], looks),
        "heldout_title": "Held-out text" if unit == "byte" else "Held-out sequence",
        "heldout": tables.held_out(evaluated, looks),
        "heldout_text": tables.held_out_text(evaluated),
        "context_source": next(iter(evaluated["sources"])),
        "stretch": evaluated.get("stretch"),
        "species": tables.species(species, config, looks) if species else None,
        "datasets": [
            benchmarks.benchmark(i, table, looks) for i, table in enumerate((metrics["downstream"] or {}).values())
        ],
        "needle_text": zero_shot.needle_text(needle, labels) if needle else None,
        "variants": zero_shot.variants(metrics["variants"], labels) if metrics["variants"] else [],
        "ablations": metrics["ablations"],
        "plots": drawn,
    }


def _tasks(metrics: dict[str, Any], looks: dict[str, plots.Look]) -> list[dict[str, Any]]:
    """The tasks of text, state tracking and forecasting that were run: title, tables and plots of each."""
    labels = {name: look.label for name, look in looks.items()}
    titles = {"lm_eval": "lm-eval", "niah": "Needles in text", "states": "State tracking", "forecast": "Forecasting"}
    found = []
    for key, title in titles.items():
        if (result := metrics[key]) is None:
            continue
        drawn: list[str] = []
        if key == "niah" and result["kinds"]:
            drawn = [
                niah_plot.by_length(result, looks),
                *(niah_plot.heat_map(result, k, labels) for k in result["kinds"]),
            ]
        elif key == "states":
            drawn = [states_plot.accuracy_by_length(result, looks)]
        elif key == "forecast":
            drawn = [forecast_plot.forecasts(result, looks)]
        found.append({"id": key, "title": title, "tables": getattr(task_tables, key)(result, labels), "plots": drawn})
    return found


def _species_plot(result: dict[str, Any], looks: dict[str, plots.Look]) -> str:
    """Accuracy at the only length, or by length."""
    if len(result["lengths"]) == 1:
        return plots.scores(tables.score_points(result, looks), looks)
    return plots.scores_by_length(tables.score_lines(result, looks), result["chance"], looks)
