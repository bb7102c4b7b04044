"""The report's tables and sentences, as plain values that the template lays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from titans_genomics.config import Config
from titans_genomics.report.plots import Look

MOST_BARS = 30
"""Sources that the plot of held-out bits shows; the table has all."""

METRIC_NAMES = {
    "accuracy": "accuracy", "mcc": "MCC", "f1": "F1", "auroc": "AUROC", "auprc": "AUPRC", "r2": "R²", "pearson": "Pearson r", "spearman": "Spearman ρ",
}  # fmt: skip
"""How the figures of labelled data are written."""

METRICS = {"accuracy": "accuracy", "mcc": "Matthews correlation", "macro_f1": "macro F1"}
"""Figures of the species task."""

Points = list[tuple[str, str, float, tuple[float, float] | None]]
"""Label, what it is the look of, value and 95% interval."""


def count(value: float | None) -> str:
    """1234567 -> 1,234,567."""
    return "" if value is None else f"{value:,.0f}"


def percent(share: float) -> str:
    """0.5079 -> 50.8%."""
    return f"{100 * share:.1f}%"


def number(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals."""
    return "" if value is None else f"{value:.{digits}f}"


def large(value: float | None) -> str:
    """A perplexity: decimals where they mean something."""
    if value is None:
        return ""
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}" if value < 1e7 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """3725 -> 1 h 2 min."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def interval(ends: list[float] | None, digits: int, sign: str = "") -> str:
    """[0.1, 0.2] -> 0.100 to 0.200."""
    return "" if ends is None else f"{ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f}"


def hours(seconds: float, hardware: dict[str, Any]) -> str:
    """What something cost: hours of GPUs where there were some, else of CPU threads."""
    gpus = len(hardware["gpus"])
    spent = seconds * (gpus or hardware["threads"]) / 3600
    shown = "<0.01" if spent < 0.01 else f"{spent:.2g}" if spent < 10 else f"{spent:,.0f}"
    return f"{shown} {'GPU' if gpus else 'CPU'}-hours"


def machine(hardware: dict[str, Any]) -> str:
    """A machine in words."""
    gpus = ", ".join(hardware["gpus"])
    return f"{hardware['cpu']}, {hardware['cores']} cores" + (f"; {gpus}" if gpus else "")


def unit_of(evaluated: dict[str, Any]) -> str:
    """What bits are counted per: "base", or of text "byte"."""
    return evaluated.get("unit", "base")  # older results are all of genomes


def counted_in(sources: Sequence[dict[str, Any]]) -> str:
    """What the sequences of a token store's sources are counted in: "base", or of text "byte"."""
    return "byte" if any(source["records"] == "documents" for source in sources) else "base"


def lead(config: Config, metrics: dict[str, Any]) -> str:
    """The first sentence: what was trained on what."""
    if not config.trained:
        names = {"niah": "needles in text", "states": "state tracking", "forecast": "forecasting"}
        return f"Models trained on {' and '.join(name for task, name in names.items() if metrics[task])}."
    model, trained = config.model, metrics["train"]["titans"]
    sources = [source for source in metrics["data"]["sources"] if source["weight"]]
    what = " and ".join(dict.fromkeys(s["species"] or s["name"] for s in sources[:3]))
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    others = len(metrics["train"]) - 1
    beside = f", beside {others} other model{'s' if others > 1 else ''} on the same windows" if others else ""
    return (
        f"A Titans model ({model.variant.upper()}, {model.n_layers} layers of width {model.d_model}, "
        f"{trained['parameters']:,} parameters) trained on {what}{more}{beside}."
    )


def headline(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures at the top of the page."""
    source, part = next(iter(metrics["evaluate"]["sources"].items()))
    unit, amount = unit_of(metrics["evaluate"]), metrics["data"]["totals"]["bases"] / 1e6
    titans, markov = part["models"]["titans"], part["markov"]
    better = titans["bits_per_base"] < markov["bits_per_base"]
    where = f"held-out {source}" if len(metrics["evaluate"]["sources"]) > 1 else "held out"
    figures = [
        {"value": f"{amount:.2f} Mb", "label": "of sequence went in", "good": False}
        if unit == "base"
        else {"value": f"{amount:.2f} MB", "label": "of text went in", "good": False},
        {
            "value": number(titans["bits_per_base"], 4),
            "label": f"bits per {unit}, Titans, {where}",
            "good": better,
        },
        {
            "value": number(markov["bits_per_base"], 4),
            "label": f"bits per {unit}, Markov of order {markov['order']}, {where}",
            "good": False,
        },
    ]
    if "perplexity_per_word" in titans:
        figures.append(
            {
                "value": large(titans["perplexity_per_word"]),
                "label": f"perplexity per word, Titans, {where}; {number(titans['perplexity_per_token'], 2)} per token",
                "good": False,
            }
        )
    if metrics["species"]:
        longest = max(metrics["species"]["lengths"], key=lambda entry: entry["length"])
        model, counts = (longest["methods"][name]["accuracy"] for name in _species_methods(longest))
        figures.append(
            {
                "value": percent(model),
                "label": f"of {longest['length']:,}-base sequences given to the right one of "
                f"{len(metrics['species']['classes'])} species",
                "good": model > counts,
            }
        )
    seconds = sum(trained["seconds"] for trained in metrics["train"].values())
    figures.append({"value": duration(seconds), "label": "of training", "good": False})
    return figures


def dropped(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Records left out, by source and reason."""
    rows = []
    for source in data["sources"]:
        total = source["kept"] + sum(source["dropped"].values())
        for reason, records in source["dropped"].items():
            rows.append({"source": source["name"], "reason": reason, "count": records, "share": records / total})
    return rows


def training(trained: dict[str, Any], looks: dict[str, Look]) -> list[dict[str, Any]]:
    """One row per model."""
    return [summary | {"name": looks[name].label} for name, summary in trained.items()]


def _parts(evaluated: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures by source, and all together when there are several."""
    parts = dict(evaluated["sources"])
    return parts | {"all": evaluated["overall"]} if len(parts) > 1 else parts


def _entries(part: dict[str, Any], looks: dict[str, Look]) -> list[tuple[str, str, dict[str, Any]]]:
    """Label, kind and figures, from the least to the most that is expected of it."""
    order = part["markov"].get("order")
    markov = "Markov" if order is None else f"Markov, order {order}"
    models = sorted(part["models"].items(), key=lambda entry: entry[0] != "transformer")
    return [
        ("uniform", "uniform", part["uniform"]),
        (markov, "markov", part["markov"]),
        *((looks[name].label, name, figures) for name, figures in models),
    ]


def held_out(evaluated: dict[str, Any], looks: dict[str, Look]) -> list[dict[str, Any]]:
    """Rows of the table of held-out bits per base; the best of each source is marked."""
    rows = []
    for source, part in _parts(evaluated).items():
        entries = _entries(part, looks)
        least = min(figures["bits_per_base"] for _, _, figures in entries)
        for label, _, figures in entries:
            rows.append(
                {
                    "source": source,
                    "label": label,
                    "bits": figures["bits_per_base"],
                    "interval": figures.get("ci95"),
                    "endless": figures.get("endless", {}).get("bits_per_base"),
                    "perplexity": figures["perplexity"],
                    "per_token": figures.get("perplexity_per_token"),
                    "per_word": figures.get("perplexity_per_word"),
                    "bases": part["bases"],
                    "best": figures["bits_per_base"] == least,
                }
            )
    return rows


def held_out_text(evaluated: dict[str, Any]) -> str:
    """What the table shows, in words, with the paired difference to the Markov model."""
    unit = unit_of(evaluated)
    source, part = next(iter(evaluated["sources"].items()))
    difference = part["models"]["titans"]["difference_to_markov"]
    bits, (low, high) = difference["bits_per_base"], difference["ci95"]
    if high < 0:
        verdict = "better than"
    elif low > 0:
        verdict = "worse than"
    else:
        verdict = "not distinguishable from"
    fitted, of, guessing = (
        ("both strands of the same training sequence", "sequence", "Two bits per base is guessing among four letters.")
        if unit == "base"
        else ("the bytes of the same training text", "text", "Eight bits per byte is guessing among all bytes.")
    )
    if "words" in part:
        guessing += (
            f" The {part['bases']:,} bytes are {part['tokens']:,} tokens and {part['words']:,} words (parted by white space): "
            "the perplexities divide the same log-likelihood by these numbers."
        )
    return (
        f"Each model reads the {evaluated['split']} split from its first {unit} to its last. On {source} the "
        f"Titans model is {verdict} the best order-k Markov model, fitted on {fitted}: "
        f"{bits:+.4f} bits per {unit} (95% interval {low:+.4f} to {high:+.4f}, blocks of {of} resampled in pairs). {guessing}"
        + (f" The plot shows the {MOST_BARS} largest sources." if len(evaluated["sources"]) > MOST_BARS else "")
    )


def bar_groups(evaluated: dict[str, Any], looks: dict[str, Look]) -> dict[str, Points]:
    """Entries of the bar plot: all but the uniform model, from which the bars hang; of the `MOST_BARS` largest sources."""
    sizes = {source: part["bases"] for source, part in evaluated["sources"].items()}
    largest = set(sorted(sizes, key=lambda source: -sizes[source])[:MOST_BARS])
    return {
        source: [
            (label, kind, figures["bits_per_base"], tuple(figures["ci95"]) if figures.get("ci95") else None)
            for label, kind, figures in _entries(part, looks)
            if kind != "uniform"
        ]
        for source, part in _parts(evaluated).items()
        if source in largest or source not in sizes
    }


def context_lines(part: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Bits per base by context position of one source: (middle of the bin, bits) of each model."""
    names = [*part["models"], "markov"]
    rows = part["context"]
    return {
        name: [((row["from"] * row["to"]) ** 0.5, row[name]) for row in rows]
        for name in names
        if rows and name in rows[0]
    }


def _species_methods(entry: dict[str, Any]) -> list[str]:
    """The model of the species task, and what stands beside it."""
    return sorted(entry["methods"], key=lambda name: name == "kmer")


def _method(name: str, kmer: int, looks: dict[str, Look]) -> str:
    return f"{kmer}-mer counts" if name == "kmer" else f"{looks[name].label} embeddings"


def score_points(result: dict[str, Any], looks: dict[str, Look]) -> Points:
    """Points of the plot of accuracies of the species task at its only length."""
    return [
        (
            _method(name, result["kmer"], looks),
            name,
            method["accuracy"],
            tuple(method["accuracy_ci95"]) if method["accuracy_ci95"] else None,
        )
        for name, method in result["lengths"][0]["methods"].items()
    ]


def score_lines(result: dict[str, Any], looks: dict[str, Look]) -> dict[str, tuple[str, list[tuple[int, float, Any]]]]:
    """Lines of the plot of accuracies by length: kind to label and (bases, accuracy, interval)."""
    entries = sorted(result["lengths"], key=lambda entry: entry["length"])
    return {
        name: (
            _method(name, result["kmer"], looks),
            [(e["length"], e["methods"][name]["accuracy"], e["methods"][name]["accuracy_ci95"]) for e in entries],
        )
        for name in _species_methods(entries[0])
    }


def species(result: dict[str, Any], config: Config, looks: dict[str, Look]) -> dict[str, Any]:
    """The species task: a sentence, the table of scores and, by length, the confusion matrices."""
    settings, classes, several = config.species, result["classes"], len(result["lengths"]) > 1
    rows, parts, differences = [], [], []
    for entry in result["lengths"]:
        matrices = []
        for name, method in entry["methods"].items():
            own = {"name": _method(name, result["kmer"], looks), "length": entry["length"]}
            values = [{"value": method[key], "interval": method[f"{key}_ci95"]} for key in METRICS]
            rows.append(own | {"seed": "mean", "values": values, "mean": True})
            if len(method["seeds"]) > 1 and not several:
                for seed in method["seeds"]:
                    values = [{"value": seed[key], "interval": None} for key in METRICS]
                    rows.append(own | {"seed": seed["seed"], "values": values, "mean": False})
            matrices.append({"name": own["name"], "rows": matrix(classes, method["confusion"])})
        parts.append({"length": entry["length"], "matrices": matrices})
        ends = entry["difference"]["ci95"]
        if ends:
            at = f" at {entry['length']:,} bases" if several else ""
            differences.append(f"{entry['difference']['accuracy']:+.3f} ({interval(ends, 3, '+')}){at}")
    lengths = ", ".join(f"{entry['length']:,}" for entry in result["lengths"])
    counts = "; ".join(
        f"{entry['train_sequences']:,} to train and {entry['test_sequences']:,} to test"
        + (f" at {entry['length']:,} bases" if several else "")
        for entry in result["lengths"]
    )
    text = (
        f"Logistic regression on frozen embeddings ({result['pooling']} over the sequence), beside logistic regression on {result['kmer']}-mer "
        f"counts of the same sequences: {lengths} bases each, {counts}, taken from disjoint regions of {settings.region:,} bases. "
        f"Chance is {percent(result['chance'])}. Intervals are 95%, from {settings.bootstrap:,} resamples of the test regions."
    )
    if differences:
        text += f" Accuracy of the embeddings minus that of the counts: {', '.join(differences)}."
    return {
        "text": text, "several": several, "metrics": list(METRICS.values()), "rows": rows, "classes": classes, "lengths": parts,
    }  # fmt: skip


def matrix(classes: list[str], confusion: list[list[float]]) -> list[dict[str, Any]]:
    """Rows of a confusion matrix; ``share`` is how strongly a cell is coloured."""
    rows = []
    for label, counts in zip(classes, confusion, strict=True):
        total = max(1, sum(counts))
        rows.append({"label": label, "cells": [{"count": round(c), "share": 0.75 * c / total} for c in counts]})
    return rows


def facts(config: Config, metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What somebody needs to make the run again."""
    trained = metrics["train"].get("titans") or next(
        metrics[task] for task in ("niah", "states", "forecast") if metrics[task]
    )
    versions = {**(metrics["data"] or {"versions": {}})["versions"], **trained["versions"]}
    versions = {name.replace("_", "-"): version for name, version in versions.items()}
    seeds = f"{metrics['seed']} ({'splits, windows, weights' if metrics['train'] else 'the run'})"
    if metrics["species"]:
        methods = metrics["species"]["lengths"][0]["methods"]
        seeds += f"; {', '.join(str(own['seed']) for own in methods['kmer']['seeds'])} (species task)"
    if metrics["downstream"]:
        drawn = dict.fromkeys(
            own["seed"] for table in metrics["downstream"].values() for row in table["rows"] for own in row["seeds"]
        )
        seeds += f"; {', '.join(map(str, drawn))} (labelled datasets)"
    found = [
        ("run", config.run),
        ("seeds", seeds),
        ("hardware", machine(trained["hardware"])),
        ("system", trained["hardware"]["system"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))),
    ]
    if metrics["data"]:
        found.append(("token store", metrics["data"]["sha256"]))
    if metrics["train"]:
        found += [
            ("best weights from", f"step {trained['best_step']:,} of {trained['steps']:,}"),
        ]
    return found
