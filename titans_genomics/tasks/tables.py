"""The table of one dataset: every row that the config asks for, the differences between them, and what others published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from titans_genomics.config import Config
from titans_genomics.config_downstream import FITTED
from titans_genomics.data.labelled.dataset import DATASET, SEQUENCES
from titans_genomics.files import read_json, write_json
from titans_genomics.progress import Progress
from titans_genomics.suites import find
from titans_genomics.tasks.embeddings import file_sha256
from titans_genomics.tasks.finetune import difference
from titans_genomics.tasks.metrics import paired_difference
from titans_genomics.tasks.plan import for_dataset, plan
from titans_genomics.tasks.score import row_settings

Row = tuple[str, str]

_BULK = ("confusion", "calibration", "seeds")


def table(config: Config, folder: Path) -> dict[str, Any]:
    """Put the rows of a dataset together and write table.json to its folder.

    Parameters
    ----------
    config : Config
        The run; it says which rows there are (`plan.plan`).
    folder : Path
        ``results/RUN/downstream/DATASET``, with the score.json of each row.

    Returns
    -------
    dict
        ``dataset``: its dataset.json; ``run``; ``protocol``, ``selected_on`` and ``label``; ``metric``; ``rows``, best first:
        their score.json without what only plots need, each with ``seeds`` (validation and test of the headline metric),
        ``score`` (where the whole of it lies, below ``folder``) and ``differences``: of the headline metric on the test set to
        "kmer", to "titans" (the same method), and of a trained network to "scratch" (the same model from random weights), paired, with 95% interval;
        ``published``, best first: model, value (a share, as ours are), protocol and source.

    Raises
    ------
    FileNotFoundError
        The dataset or a row is not there; the command to make it is named.
    ValueError
        A row was scored with other settings, with other seeds or on another preparation of the dataset than those of now.
    """
    folder = Path(folder)
    prepare = f"downstream prepare --config FILE --dataset {folder.name}"
    dataset = read_json(folder / "data" / DATASET, prepare)
    sequences = file_sha256(_there(folder / "data" / SEQUENCES, prepare))
    metric = dataset["metric"]
    config = for_dataset(config, dataset)
    rows = plan(config, folder.name)
    scores = {row: read_json(_path(folder, row, "score.json"), _command(folder, row)) for row in rows}
    for row, score in scores.items():
        _check(config, folder, row, score, metric, sequences)
    listed = []
    predictions = _Predictions(folder, rows)
    with Progress(len(rows), "rows", f"table of {folder.name}") as progress:
        for row in rows:
            score = scores[row]
            entry = {key: value for key, value in score.items() if key not in _BULK}
            entry["seeds"] = [
                {"seed": own["seed"], "validation": own["validation"], "test": own["test"].get(metric)}
                for own in score["seeds"]
            ]
            entry["score"] = str(_path(folder, row, "score.json").relative_to(folder))
            entry["differences"] = {
                name: predictions.difference(config, dataset, row, other)
                for name, other in _baselines(row)
                if other in scores
            }
            listed.append(entry)
            progress.update(1)
    listed.sort(key=lambda entry: (-_mean(entry, "test", metric), entry["method"], entry["model"]))
    first = scores[rows[0]]
    result = {
        "dataset": dataset,
        "run": config.run,
        **{key: first[key] for key in ("protocol", "selected_on", "label")},
        "metric": metric,
        "rows": listed,
        "published": _published(config, dataset),
    }
    write_json(folder / "table.json", result)
    return result


def text(result: dict[str, Any]) -> str:
    """A table for the terminal: the headline metric of every row, and what was published."""
    metric, dataset = result["metric"], result["dataset"]
    seeds = len(result["rows"][0]["seeds"])
    alone = " (one seed: the spread of training is not in the intervals)" if seeds == 1 else ""
    lines = [
        f"{dataset['name']}: {metric} on test, mean [95% interval] over {seeds} seed(s), {result['label']}{alone}",
        f"{'method':<10} {'model':<16} {metric:<24} {'deduplicated':<24} {'minus kmer':<26}",
    ]
    for row in result["rows"]:
        clean = row["deduplicated"]
        difference = row["differences"].get("kmer")
        known = difference is not None and difference["difference"] is not None
        shown = f"{difference['difference']:+.4f}{_interval(difference['ci95'], '+.4f')}" if known else ""
        lines.append(
            f"{row['method']:<10} {row['model']:<16} {_cell(row['test'].get(metric)):<24} "
            f"{_cell(clean and clean.get(metric)):<24} {shown:<26}"
        )
    lines += [
        f"published: {own['model']} {own['value']:.4f} ({own['protocol']}; {own['source']})"
        for own in result["published"]
    ]
    return "\n".join(line.rstrip() for line in lines)


# ---------------------------------------------------------------------------------------------- rows


def _path(folder: Path, row: Row, name: str) -> Path:
    return folder / row[0] / row[1] / name


def _command(folder: Path, row: Row) -> str:
    return f"downstream score --config FILE --dataset {folder.name} --method {row[0]} --model {row[1]}"


def _there(path: Path, command: str) -> Path:
    """The path, of a file that is there. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there yet; run `titans-genomics {command}`")
    return path


def _check(config: Config, folder: Path, row: Row, score: dict[str, Any], metric: str, sequences: str) -> None:
    """Raise ValueError for a row that does not belong beside the others; ``sequences``: checksum of the prepared dataset."""
    expected = {
        "dataset": folder.name,
        "metric": metric,
        "sequences_sha256": sequences,
        **row_settings(config, row[0]),
        "seeds": list(config.downstream.seeds),
        "trials": config.downstream.trials(row[0]) if row[0] in FITTED else [],
    }
    found = score | {key: [own[key[:-1]] for own in score[key]] for key in ("seeds", "trials")}
    differing = difference({key: found.get(key) for key in expected}, expected)
    if differing:
        raise ValueError(
            f"{_path(folder, row, 'score.json')}: {differing}; run `titans-genomics {_command(folder, row)}` again"
        )


def _baselines(row: Row) -> list[tuple[str, Row]]:
    """What a row is compared to."""
    method, model = row
    found = [("kmer", ("kmer", "none"))] if method != "kmer" else []
    if model not in ("none", "titans"):
        found.append(("titans", (method, "titans")))
    return found + ([("scratch", ("scratch", model))] if method in ("finetune", "lora") else [])


def _mean(entry: dict[str, Any], part: str, metric: str) -> float:
    return entry[part][metric]["mean"] if metric in entry[part] else -np.inf


def _cell(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['mean']:.4f}{_interval(value['ci95'], '.4f')}"


def _interval(ends: list[float] | None, form: str) -> str:
    return "" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]"


def _published(config: Config, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of others on a dataset: of a suite from the suite, which has them in per cent, of one's own from the config."""
    if dataset.get("suite") is None:
        own = [entry for entry in config.downstream.datasets if entry.key == dataset["name"]]
        found = [figure.model_dump(mode="json") for entry in own for figure in entry.published]
    else:
        (official,) = find(dataset["name"])
        if official.metric != dataset["metric"]:
            return []
        found = [
            figure.model_dump(mode="json") | {"value": round(figure.value / 100, 6)} for figure in official.published
        ]
    return sorted(found, key=lambda figure: (-figure["value"], figure["model"], figure["source"]))


# --------------------------------------------------------------------------------------- differences


class _Predicted(NamedTuple):
    """What stands in a predictions.parquet: scores of each seed, (n, outputs) float32; of one seed the targets, ids and units."""

    scores: list[np.ndarray]
    targets: np.ndarray
    ids: np.ndarray
    units: np.ndarray


class _Predictions:
    """predictions.parquet of the rows of a dataset; those of baselines are read once."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self._folder = folder
        self._again = {other for row in rows for _, other in _baselines(row)}
        self._kept: dict[Row, _Predicted] = {}

    def difference(self, config: Config, dataset: dict[str, Any], row: Row, other: Row) -> dict[str, Any]:
        """The headline metric of ``row`` minus that of ``other``, on the same resampled test sequences."""
        ours, theirs = self._of(row), self._of(other)
        same = np.array_equal(ours.ids, theirs.ids)
        if not same or not np.array_equal(ours.targets, theirs.targets):
            raise ValueError(
                f"{_path(self._folder, other, 'predictions.parquet')}: of other {'targets' if same else 'test sequences'} than those of {row[0]}/{row[1]}; "
                f"run `titans-genomics {_command(self._folder, other)}` and `titans-genomics {_command(self._folder, row)}` again"
            )
        return paired_difference(
            dataset["task"],
            dataset["metric"],
            ours.scores,
            theirs.scores,
            ours.targets,
            config.downstream.bootstrap,
            config.seed,
            ours.units,
        )

    def _of(self, row: Row) -> _Predicted:
        if row in self._kept:
            return self._kept[row]
        path = _path(self._folder, row, "predictions.parquet")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; run `titans-genomics {_command(self._folder, row)}`")
        columns = pq.read_table(path)
        names = [name for name in columns.column_names if name.startswith("score_")]
        scores = np.stack([columns[name].to_numpy() for name in names], 1)
        wanted = [name for name in columns.column_names if name == "target" or name.startswith("target_")]
        targets = np.stack([columns[name].to_numpy() for name in wanted], 1)
        seed = columns["seed"].to_numpy()
        count = int((seed == seed[0]).sum())
        ids = np.array(columns["id"][:count].to_pylist())
        own = targets[:count]
        found = _Predicted(
            [scores[start : start + count] for start in range(0, len(scores), count)],
            own[:, 0] if np.issubdtype(own.dtype, np.integer) else own,
            ids,
            columns["unit"][:count].to_numpy(),
        )
        if row in self._again:
            self._kept[row] = found
        return found
