"""docs/results.md: what was run, from JSON that is committed beside it, one file per run.

`collect_results` trims what the stages of a run left to what the page shows; `write_page` puts the tables of all runs between the marks
of the page. Our rows come from those files alone, published ones from the list in each table.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from titans_genomics.config import Config
from titans_genomics.files import write_text
from titans_genomics.report.build import collect
from titans_genomics.report.plots import looks
from titans_genomics.report.results_tables import render
from titans_genomics.report.tables import unit_of

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

ROW = (
    "method", "model", "protocol", "selected_on", "label", "pooling", "strands", "trial", "seeds", "test", "deduplicated",
    "deduplicated_sequences", "hyperparameters", "differences", "cost", "hub",
)  # fmt: skip
"""What is kept of a row of a dataset's table."""

TASKS = ("lm_eval", "niah", "states", "forecast")
"""What of a run is kept as its stage left it, curves and examples aside."""

CELL = ("length", "depth", "distance", "stretches", "recall", "control_recall", "gain_recall", "gain_bits")
"""What is kept of a needle's cell, beside the interval of ``gain_recall``."""


def collect_results(config_path: Path, config: Config, folder: Path, out: Path) -> dict[str, Any]:
    """Trim the results of a run to what the page shows, and write them as JSON.

    Parameters
    ----------
    config_path : Path
        The run's config file, below the working directory (the repository): the page links it.
    config : Config
        What it says.
    folder : Path
        The folder of the run's results; every stage that the config asks for has run.
    out : Path
        The JSON file to write, ``docs/results/RUN.json``.

    Returns
    -------
    dict
        ``run``, ``config`` (path from the repository), ``version``, ``seeds``, ``hardware``, ``versions``, ``sources`` (trained on), ``labels`` (of the
        models), ``models`` (what training and evaluation say of each), ``markov``, ``split``, ``cost`` (seconds), ``datasets`` (``dataset``,
        ``rows``, ``published``), ``species``, ``needle``, ``variants``, ``ablations``; the last four are null where they were not asked for. ``lm_eval``,
        ``niah``, ``states``, ``forecast`` where they were; a run without tokens has nothing from ``sources`` to ``ablations``.

    Raises
    ------
    FileNotFoundError, ValueError
        A stage has not run, or the config lies outside the working directory.
    """
    try:
        written = Path(config_path).resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        raise ValueError(
            f"{config_path}: lies outside {Path.cwd()}; the page links configs of the repository"
        ) from None
    found = collect(config, Path(folder))
    base = next(iter(found["train"].values()), None) or next(found[task] for task in TASKS if found[task])
    result = {
        "run": config.run,
        "config": written,
        "version": found["version"],
        "seeds": {"run": config.seed},
        "hardware": base["hardware"],
        "versions": base["versions"],
        "labels": {name: look.label for name, look in looks(config).items()},
    }
    if config.trained:
        result |= _of_tokens(config, found)
    result |= {task: _without_examples(found[task]) for task in TASKS if found[task]}
    result = _rounded(result)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(result, indent=1) + "\n")
    return result


def _of_tokens(config: Config, found: dict[str, Any]) -> dict[str, Any]:
    """What a run has that read tokens: sources, models with their figures, datasets and zero-shot tasks."""
    trained, evaluated = found["train"], found["evaluate"]
    tables = found["downstream"] or {}
    return {
        "seeds": {"run": config.seed, "downstream": list(config.downstream.seeds) if tables else []},
        "versions": {**found["data"]["versions"], **next(iter(trained.values()))["versions"]},
        "unit": unit_of(evaluated),
        "sources": [
            {key: source[key] for key in ("name", "species", "bases", "sha256")}
            for source in found["data"]["sources"]
            if source["weight"]
        ],
        "models": {
            name: {
                "changes": config.compare.get(name, {}),
                **{
                    key: own[key]
                    for key in ("parameters", "steps", "tokens", "seconds", "tokens_per_second", "skipped_steps")
                },
                **{
                    key: evaluated["overall"]["models"][name][key]
                    for key in (
                        "bits_per_base",
                        "ci95",
                        "difference_to_markov",
                        "perplexity_per_token",
                        "perplexity_per_word",
                    )
                    if key in evaluated["overall"]["models"][name]
                },
            }
            for name, own in trained.items()
        },
        "markov": {key: evaluated["overall"]["markov"][key] for key in ("bits_per_base", "ci95")},
        "split": evaluated["split"],
        "cost": {
            "training": sum(own["seconds"] for own in trained.values()),
            "needle": sum(
                own["seconds"] for key in ("models", "tuned") for own in (found["needle"] or {}).get(key, {}).values()
            ),
        },
        "datasets": {
            name: {
                "dataset": table["dataset"],
                "rows": [{key: row[key] for key in ROW if key in row} for row in table["rows"]],
                "published": table["published"],
            }
            for name, table in tables.items()
        },
        "species": found["species"],
        "needle": _needle(found["needle"]) if found["needle"] else None,
        "variants": found["variants"],
        "ablations": found["ablations"],
    }


def _without_examples(value: Any) -> Any:
    """Results of a task without what is only drawn: curves of training, forecasts of single windows."""
    if isinstance(value, dict):
        return {
            key: _without_examples(own)
            for key, own in value.items()
            if key not in ("curve", "example", "truth", "times")
        }
    return [_without_examples(own) for own in value] if isinstance(value, list) else value


def write_page(jsons: list[Path], page: Path) -> None:
    """Write what stands between the marks of a page anew, from the files of `collect_results`.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is not there or cannot be read, two are of one run, or the page lacks its marks.
    """
    runs = [_run(path) for path in jsons]
    names = [run["run"] for run in runs]
    for name, path in zip(names, jsons, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{path}: another file has the run {name!r} too; keep one file per run")
    text = Path(page).read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page}: needs one line {BEGIN} and, below it, one line {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(Path(page), f"{before}{BEGIN}\n\n{render(runs)}\n\n{END}{after}")


# ------------------------------------------------------------------------------------------- helpers


def _needle(result: dict[str, Any]) -> dict[str, Any]:
    """The cells, and how long it took."""

    def trimmed(model: dict[str, Any]) -> dict[str, Any]:
        cells = [
            {key: cell[key] for key in CELL} | {"ci95": {"gain_recall": cell["ci95"]["gain_recall"]}}
            for cell in model["cells"]
        ]
        return {**{key: model[key] for key in ("seconds", "bases_per_second", "peak_mb")}, "cells": cells}

    parts = {
        key: {name: trimmed(own) for name, own in result[key].items()} for key in ("models", "tuned") if key in result
    }
    return {key: value for key, value in result.items() if key not in ("models", "tuned")} | parts


def _rounded(value: Any) -> Any:
    """Seven significant digits are more than any of it is worth, and differences between two versions of a file stay readable."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(own) for key, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, list | tuple) else value


def _run(path: Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with `titans-genomics results CONFIG`")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: cannot be read as JSON ({error}); make it again with `titans-genomics results CONFIG`"
        ) from None
