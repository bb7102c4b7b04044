"""What a model does that it was never trained for, as sentences and tables: needles in a genome, sequence variants."""

from __future__ import annotations

from statistics import mean
from typing import Any

from titans_genomics.report.tables import METRIC_NAMES, percent

VARIANT_METRICS = ("auroc", "auprc", "spearman", "pearson")


def needle_text(result: dict[str, Any], labels: dict[str, str]) -> str:
    """What the heat map shows, in words: how far each model recalls more than it does of a needle that was never there."""
    said, silent = [], []
    for key, kind in (("models", ""), ("tuned", " (trained on needles)")):
        for name, model in result.get(key, {}).items():
            reached = _reach(model["cells"])
            if reached:
                length, recall = reached
                said.append(f"of {labels[name]}{kind} up to {length:,} bases ({percent(recall)} right there)")
            else:
                silent.append(f"{labels[name]}{kind}")
    if silent:
        said.append(f"at no length of {', '.join(silent)}")
    text = (
        f"A motif of {result['motif']} random bases with a payload of {result['payload']} behind it is planted in held-out sequence of "
        f"{result['source']}; later the motif is shown again, and the model goes on by itself. Chance is 25% of the bases of the payload. "
        f"What counts is how much more is right than of a control, a needle that was never planted. At most depths it is more {'; '.join(said)}. "
    )
    if result["repeated_background"]:
        lengths = ", ".join(f"{length:,}" for length in result["repeated_background"])
        text += f"At {lengths} bases the held-out sequence is too short and repeats itself. "
    return (
        text + f"Training windows are {result['train_context']:,} tokens. Intervals are 95%, over stretches of genome."
    )


def _reach(cells: list[dict[str, Any]]) -> tuple[int, float] | None:
    """The longest length at which the interval is above the control at most depths, with the recall there; None without any.

    At a few of many cells an interval is above it by chance.
    """
    reached = []
    for length in {cell["length"] for cell in cells}:
        own = [cell for cell in cells if cell["length"] == length]
        if 2 * sum(cell["ci95"]["gain_recall"][0] > 0 for cell in own) > len(own):
            reached.append((length, mean(cell["recall"] for cell in own)))
    return max(reached, default=None)


def variants(result: dict[str, Any], labels: dict[str, str]) -> list[dict[str, Any]]:
    """Of each set of variants: a sentence, the names of the metrics, and the rows."""
    parts = []
    for name, own in result["sets"].items():
        metrics = [key for key in VARIANT_METRICS if any(key in figures for figures in own["methods"].values())]
        rows = [
            {
                "name": variant_method(method, result, labels),
                "values": [figures.get(key) for key in metrics],
                "difference": figures.get("difference_to_markov"),
            }
            for method, figures in own["methods"].items()
        ]
        parts.append(
            {"name": name, "text": variant_text(own), "metrics": [METRIC_NAMES[key] for key in metrics], "rows": rows}
        )
    return parts


def variant_text(own: dict[str, Any]) -> str:
    """What a set of variants is, and what a high figure means."""
    if own["kind"] == "labels":
        what = ", ".join(f"{count:,} of label {value}" for value, count in own["labels"].items())
    else:
        what = f"numbers from {own['labels']['min']:g} to {own['labels']['max']:g}"
    shortest, longest = own["length"]["min"], own["length"]["max"]
    direction = own["direction"][0].upper() + own["direction"][1:]
    bases = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    return f"{own['variants']:,} variants ({what}), references of {bases} bases. {direction}."


def variant_method(method: str, result: dict[str, Any], labels: dict[str, str]) -> str:
    """What a row is called."""
    if method == "markov":
        return f"Markov, order {result['markov']['order']}"
    return labels.get(method, method)
