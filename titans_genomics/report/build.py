"""Gather what the stages left, write metrics.json and render report.html."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2
import yaml

from titans_genomics import __version__
from titans_genomics.config import Config
from titans_genomics.report import plots, tables

STAGE_FILES = {
    "data": ("tokens/manifest.json", "tokenize"),
    "evaluate": ("evaluate/evaluate.json", "evaluate"),
    "downstream": ("downstream/species.json", "downstream"),
}


def report(config: Config, folder: Path, out: Path) -> dict[str, Any]:
    """Write ``out``/report.html and ``out``/metrics.json from the results of the stages before.

    Parameters
    ----------
    config : Config
        The run.
    folder : Path
        The folder of the run's results, with tokens/, train/, evaluate/ and, when the config asks, downstream/.
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
    write(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write(out / "report.html", page)
    return metrics


def collect(config: Config, folder: Path) -> dict[str, Any]:
    """Every number of the run in one dict, the content of metrics.json.

    ``bits_per_base`` is its summary: held-out bits per base of uniform, Markov and each model, by source and overall.
    """
    wanted = ["data", "evaluate"] + (["downstream"] if config.downstream.species else [])
    stages = {key: _read(folder / STAGE_FILES[key][0], STAGE_FILES[key][1]) for key in wanted}
    names = ["titans", "transformer"] if config.train.transformer else ["titans"]
    return {
        "run": config.run,
        "seed": config.seed,
        "version": __version__,
        "bits_per_base": _bits_per_base(stages["evaluate"]),
        "data": {key: value for key, value in stages["data"].items() if key not in ("config", "runs")},
        "train": {name: _read(folder / "train" / name / "train.json", "train") for name in names},
        "evaluate": stages["evaluate"],
        "downstream": stages.get("downstream"),
        "config": config.model_dump(mode="json"),
    }


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
    evaluated, downstream = metrics["evaluate"], metrics["downstream"]
    main = next(iter(evaluated["sources"].values()))
    guessing = main["uniform"]["bits_per_base"]
    references = {"uniform": guessing}
    learned = [source["name"] for source in metrics["data"]["sources"] if source["weight"]]
    if (
        len(learned) == 1 and learned[0] in evaluated["sources"]
    ):  # else the curves are of a mixture that no Markov model was fitted on
        references["Markov (held out)"] = evaluated["sources"][learned[0]]["markov"]["bits_per_base"]
    drawn = {
        "curves": plots.curves(curves, references),
        "optimisation": plots.optimisation(curves),
        "gates": plots.gates(curves["titans"]),
        "bars": plots.bars(tables.bar_groups(evaluated), guessing),
        "context": plots.context(tables.context_lines(main), evaluated["train_context"]),
        "scores": plots.scores(tables.score_points(downstream)) if downstream else None,
    }
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
        "duration": tables.duration,
    }
    return environment.get_template("template.html").render(
        title=config.report.title or config.run,
        lead=tables.lead(config, metrics),
        figures=tables.headline(metrics),
        data=metrics["data"],
        config=config,
        dropped=tables.dropped(metrics["data"]),
        training=tables.training(metrics["train"]),
        heldout=tables.held_out(evaluated),
        heldout_text=tables.held_out_text(evaluated),
        context_source=next(iter(evaluated["sources"])),
        stretch=evaluated.get("stretch"),
        downstream=tables.downstream(downstream, config) if downstream else None,
        facts=tables.facts(config, metrics),
        config_yaml=yaml.safe_dump(metrics["config"], sort_keys=False),
        plots=drawn,
        version=__version__,
    )


def _read(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there yet; run `titans-genomics {stage}` first")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); run `titans-genomics {stage}` again") from None


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
