"""The tables of docs/results.md, Markdown, from what `results_page.collect_results` keeps of each run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from titans_genomics.report import task_tables, zero_shot
from titans_genomics.report.benchmarks import dataset_text, figure, leak_text, row_name
from titans_genomics.report.tables import METRIC_NAMES, hours, interval, machine, percent

NOTHING = "No run is recorded yet."


def render(runs: list[dict[str, Any]]) -> str:
    """All tables of all runs, Markdown."""
    if not runs:
        return NOTHING
    parts = {
        "Runs": _runs(runs),
        "Labelled datasets": _datasets(runs),
        "Ablations": _each(runs, "ablations", _ablations),
        "Needle in a genome": _each(runs, "needle", _needles),
        "Sequence variants, zero-shot": _each(runs, "variants", _variants),
        "Species by length": _each(runs, "species", _species),
        "Needles in text": _task(runs, "niah", task_tables.niah),
        "State tracking": _task(runs, "states", task_tables.states),
        "Forecasting": _task(runs, "forecast", task_tables.forecast),
        "lm-eval": _task(runs, "lm_eval", task_tables.lm_eval),
    }
    text = "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)
    return text.replace("<", "&lt;")  # in a name; it would begin a tag


# ---------------------------------------------------------------------------------------------- parts


def _runs(runs: list[dict[str, Any]]) -> str:
    body: list[list[str]] = []
    models: dict[str, list[list[str]]] = {"base": [], "byte": []}
    for run in (run for run in runs if "models" in run):
        cost = {key: seconds for key, seconds in run["cost"].items() if seconds}
        unit = run.get("unit", "base")
        body.append(
            [
                run["run"], _link(run), machine(run["hardware"]), f"{run['version']}, torch {run['versions']['torch']}",
                str(run["seeds"]["run"]), "; ".join(f"{key} {hours(seconds, run['hardware'])}" for key, seconds in cost.items()),
            ]
        )  # fmt: skip
        for name, own in run["models"].items():
            difference = own["difference_to_markov"]
            perplexities = (
                [f"{own['perplexity_per_token']:.1f}", f"{own['perplexity_per_word']:.0f}"] if unit == "byte" else []
            )
            models[unit].append(
                [
                    run["run"], run["labels"][name], f"{own['parameters']:,}", f"{own['tokens']:,}", hours(own["seconds"], run["hardware"]),
                    f"{own['bits_per_base']:.4f} ({interval(own['ci95'], 4)})",
                    f"{difference['bits_per_base']:+.4f} ({interval(difference['ci95'], 4, '+')})", *perplexities, _link(run),
                ]
            )  # fmt: skip
    if not body:
        return ""
    parts = [
        "Each run is one config and one command. The cost is that of training all of its models, and of the needles; rows of datasets have their own.",
        rows(["run", "config", "machine", "version", "seed", "cost"], body),
        "What was trained, and how well it predicts what was held out: below zero in the column *less Markov*, better than the best Markov model.",
    ]
    for unit, lines in models.items():
        more = ["perplexity per token", "per word"] if unit == "byte" else []
        header = [
            "run",
            "model",
            "parameters",
            "tokens",
            "training",
            f"held-out bits per {unit}",
            "less Markov",
            *more,
            "config",
        ]
        if lines:
            parts.append(rows(header, lines))
    return "\n\n".join(parts)


def _datasets(runs: list[dict[str, Any]]) -> str:
    """The leaks of all datasets, then the rows of each: of all runs, so that they stand side by side."""
    runs = [run for run in runs if "datasets" in run]
    names = list(dict.fromkeys(name for run in runs for name in run["datasets"]))
    if not names:
        return ""
    leaks, parts = [], []
    for name in names:
        own = [(run, run["datasets"][name]) for run in runs if name in run["datasets"]]
        for run, table in own:
            found = table["dataset"]["leaks"]
            leaks.append(
                [name, run["run"], f"{found['test']:,}", f"{found['verbatim']:,} ({percent(found['verbatim_share'])})", f"{found['near']:,} ({percent(found['near_share'])})"]
            )  # fmt: skip
        parts.append(_dataset(name, own))
    return "\n\n".join(
        [
            "How much of each test set stands in its training set, on either strand: verbatim, and with at least half of its length. Where this is much, "
            "the official score rewards memory, and the de-duplicated one is the one to read.",
            rows(["dataset", "run", "test sequences", "verbatim", "at least half"], leaks),
            *parts,
        ]
    )


def _dataset(name: str, found: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Our rows of one dataset, best first, and the published ones."""
    parts = [f"### {name}"]
    for text in dict.fromkeys(f"{dataset_text(table['dataset'])} {leak_text(table['dataset'])}" for _, table in found):
        parts.append(text)
    metrics = list(dict.fromkeys(table["dataset"]["metric"] for _, table in found))
    for metric in metrics:
        ours = [(run, row) for run, table in found if table["dataset"]["metric"] == metric for row in table["rows"]]
        ours.sort(key=lambda entry: -(figure(entry[1]["test"], metric) or {"mean": -math.inf})["mean"])
        for label in dict.fromkeys(f"{row['protocol']}: {row['label']}" for _, row in ours):
            parts.append(f"Protocol {label}. Means over seeds, with 95% intervals over test sequences.")
        header = [
            "row",
            METRIC_NAMES[metric],
            "de-duplicated",
            "less k-mers",
            "protocol",
            "seeds",
            "parameters",
            "cost",
            "config",
        ]
        parts.append(rows(header, [_row(run, row, metric) for run, row in ours]))
    published = list({json.dumps(entry): entry for _, table in found for entry in table["published"]}.values())
    if published:
        parts.append("Published, by others; the protocol says whether they can be compared:")
        body = [[entry["model"], f"{entry['value']:.3f}", entry["protocol"], entry["source"]] for entry in published]
        parts.append(rows(["model", METRIC_NAMES[metrics[0]], "protocol", "source"], body))
    return "\n\n".join(parts)


def _row(run: dict[str, Any], row: dict[str, Any], metric: str) -> list[str]:
    cost, difference = row["cost"], row.get("differences", {}).get("kmer")
    return [
        row_name(row, run["labels"]),
        _score(figure(row["test"], metric)),
        _score(figure(row["deduplicated"], metric)),
        f"{difference['difference']:+.3f}{_bounds(difference['ci95'], 3, '+')}" if difference else "",
        row["protocol"],
        ", ".join(str(own["seed"]) for own in row["seeds"]),
        f"{cost['parameters']:,}",
        hours(cost["seconds"], cost["hardware"]),
        _link(run),
    ]


def _ablations(run: dict[str, Any]) -> str:
    result = run["ablations"]
    return "\n\n".join(
        [
            f"Every model of {run['run']} ({_link(run)}; {machine(run['hardware'])}), trained on the same windows. Lower bits are better, as is perplexity in the "
            f"paper; of the other figures higher ones. The last columns are those of the corresponding row of {result['paper']}: language there, so that only the order can be compared.",
            rows(result["table"]["columns"], result["table"]["rows"], left=2),
        ]
    )


def _needles(run: dict[str, Any]) -> str:
    """Share of the payload that is right, by length and depth, and what it is above the control."""
    result = run["needle"]
    body = []
    for key, kind in (("models", ""), ("tuned", ", trained on needles")):
        for name, model in result.get(key, {}).items():
            cells = {(cell["length"], cell["depth"]): cell for cell in model["cells"]}
            for length in result["lengths"]:
                found = [_cell(cells[length, depth]) for depth in result["depths"]]
                body.append([f"{run['labels'][name]}{kind}", f"{length:,}", *found])
    header = ["model", "bases read", *(f"depth {depth:g}" for depth in result["depths"])]
    return "\n\n".join(
        [
            f"{_link(run)}: {zero_shot.needle_text(result, run['labels'])}",
            "In each cell: right bases of the payload, and in brackets how many more than of the control, in percentage points. Depth 0 is the beginning, 1 the question.",
            rows(header, body),
        ]
    )


def _variants(run: dict[str, Any]) -> str:
    parts = [f"{_link(run)}: no model has seen a label."]
    for own in zero_shot.variants(run["variants"], run["labels"]):
        body = []
        for row in own["rows"]:
            difference = row["difference"]
            body.append(
                [
                    row["name"],
                    *(
                        "" if value is None else f"{value['value']:.3f}{_bounds(value['ci95'], 3)}"
                        for value in row["values"]
                    ),
                    ""
                    if difference is None
                    else f"{difference['difference']:+.3f}{_bounds(difference['ci95'], 3, '+')}",
                ]
            )
        parts += [f"{own['name']}: {own['text']}", rows(["model", *own["metrics"], "less Markov"], body)]
    return "\n\n".join(parts)


def _species(run: dict[str, Any]) -> str:
    result = run["species"]
    methods = list(result["lengths"][0]["methods"])
    names = [f"{result['kmer']}-mer counts" if name == "kmer" else run["labels"][name] for name in methods]
    body = []
    for entry in result["lengths"]:
        values = [entry["methods"][name] for name in methods]
        difference = entry["difference"]
        body.append(
            [
                f"{entry['length']:,}",
                f"{entry['test_sequences']:,}",
                *(f"{own['accuracy']:.3f}{_bounds(own['accuracy_ci95'], 3)}" for own in values),
                f"{difference['accuracy']:+.3f}{_bounds(difference['ci95'], 3, '+')}",
            ]
        )
    text = (
        f"{_link(run)}: accuracy of telling {len(result['classes'])} species apart ({', '.join(result['classes'])}; chance {percent(result['chance'])}), linear probe "
        "on frozen embeddings beside one on k-mer counts."
    )
    return "\n\n".join([text, rows(["bases", "test sequences", *names, "difference"], body, left=0)])


# ------------------------------------------------------------------------------------------- helpers


def rows(header: list[str], body: list[list[str]], left: int = 1) -> str:
    """A Markdown table; all but the first ``left`` columns stand at the right when they are numbers."""
    numeric = [
        i >= left and all(not line[i] or line[i][0] in "+-0123456789" for line in body) for i in range(len(header))
    ]
    rule = ["---:" if number else "---" for number in numeric]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, rule, *body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _each(runs: list[dict[str, Any]], key: str, part: Callable[[dict[str, Any]], str]) -> str:
    return "\n\n".join(part(run) for run in runs if run.get(key))


def _task(
    runs: list[dict[str, Any]], key: str, tables: Callable[[dict[str, Any], dict[str, str]], list[task_tables.Table]]
) -> str:
    """The tables of a task, each run's with its config and machine."""
    parts = []
    for run in runs:
        for table in tables(run[key], run["labels"]) if key in run else ():
            parts += [
                f"**{table.title}** ({_link(run)}; {machine(run['hardware'])}). {table.text}".rstrip(),
                rows(table.header, table.rows),
            ]
    return "\n\n".join(parts)


def _link(run: dict[str, Any]) -> str:
    """The config, seen from a page in a folder of the repository."""
    return f"[{run['config']}](../{run['config']})"


def _score(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['mean']:.3f}{_bounds(value['ci95'], 3)}"


def _bounds(ends: list[float] | None, digits: int, sign: str = "") -> str:
    return f" ({interval(ends, digits, sign)})" if ends else ""


def _cell(cell: dict[str, Any]) -> str:
    return f"{100 * cell['recall']:.1f}% ({100 * cell['gain_recall']:+.1f})"
