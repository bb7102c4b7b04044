"""The report's tables and sentences, as plain values that the template lays out."""

from __future__ import annotations

from typing import Any

from titans_genomics.config import Config
from titans_genomics.report.plots import NAMES

MOST_BARS = 30
"""Sources that the plot of held-out bits shows; the table has all."""

METRICS = {"accuracy": "accuracy", "mcc": "Matthews correlation", "macro_f1": "macro F1"}


def count(value: float | None) -> str:
    """1234567 -> 1,234,567."""
    return "" if value is None else f"{value:,.0f}"


def percent(share: float) -> str:
    """0.5079 -> 50.8%."""
    return f"{100 * share:.1f}%"


def number(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals."""
    return "" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """3725 -> 1 h 2 min."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def lead(config: Config, metrics: dict[str, Any]) -> str:
    """The first sentence: what was trained on what."""
    model, trained = config.model, metrics["train"]["titans"]
    sources = [source for source in metrics["data"]["sources"] if source["weight"]]
    what = " and ".join(dict.fromkeys(s["species"] or s["name"] for s in sources[:3]))
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    return (
        f"A Titans model ({model.variant.upper()}, {model.n_layers} layers of width {model.d_model}, "
        f"{trained['parameters']:,} parameters) trained on {what}{more}."
    )


def headline(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures at the top of the page."""
    source, part = next(iter(metrics["evaluate"]["sources"].items()))
    titans, markov = part["models"]["titans"], part["markov"]
    better = titans["bits_per_base"] < markov["bits_per_base"]
    where = f"held-out {source}" if len(metrics["evaluate"]["sources"]) > 1 else "held out"
    figures = [
        {"value": f"{metrics['data']['totals']['bases'] / 1e6:.2f} Mb", "label": "of sequence went in", "good": False},
        {
            "value": number(titans["bits_per_base"], 4),
            "label": f"bits per base, Titans, {where}",
            "good": better,
        },
        {
            "value": number(markov["bits_per_base"], 4),
            "label": f"bits per base, Markov of order {markov['order']}, {where}",
            "good": False,
        },
    ]
    if metrics["downstream"]:
        methods = metrics["downstream"]["methods"]
        figures.append(
            {
                "value": percent(methods["titans"]["accuracy"]),
                "label": f"of {metrics['downstream']['length']}-base sequences given to the right one of "
                f"{len(metrics['downstream']['classes'])} species",
                "good": methods["titans"]["accuracy"] > methods["kmer"]["accuracy"],
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


def training(trained: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per model."""
    return [summary | {"name": NAMES[name]} for name, summary in trained.items()]


def _parts(evaluated: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures by source, and all together when there are several."""
    parts = dict(evaluated["sources"])
    return parts | {"all": evaluated["overall"]} if len(parts) > 1 else parts


def _entries(part: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Label, kind and figures, from the least to the most that is expected of it."""
    order = part["markov"].get("order")
    markov = "Markov" if order is None else f"Markov, order {order}"
    models = sorted(part["models"].items(), reverse=True)  # transformer, titans
    return [
        ("uniform", "uniform", part["uniform"]),
        (markov, "markov", part["markov"]),
        *((NAMES[name], name, figures) for name, figures in models),
    ]


def held_out(evaluated: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of held-out bits per base; the best of each source is marked."""
    rows = []
    for source, part in _parts(evaluated).items():
        entries = _entries(part)
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
                    "bases": part["bases"],
                    "best": figures["bits_per_base"] == least,
                }
            )
    return rows


def held_out_text(evaluated: dict[str, Any]) -> str:
    """What the table shows, in words, with the paired difference to the Markov model."""
    source, part = next(iter(evaluated["sources"].items()))
    difference = part["models"]["titans"]["difference_to_markov"]
    bits, (low, high) = difference["bits_per_base"], difference["ci95"]
    if high < 0:
        verdict = "better than"
    elif low > 0:
        verdict = "worse than"
    else:
        verdict = "not distinguishable from"
    return (
        f"Each model reads the {evaluated['split']} split from its first base to its last. On {source} the "
        f"Titans model is {verdict} the best order-k Markov model, fitted on both strands of the same training sequence: "
        f"{bits:+.4f} bits per base (95% interval {low:+.4f} to {high:+.4f}, blocks of sequence resampled in pairs). "
        "Two bits per base is guessing among four letters."
        + (f" The plot shows the {MOST_BARS} largest sources." if len(evaluated["sources"]) > MOST_BARS else "")
    )


def bar_groups(evaluated: dict[str, Any]) -> dict[str, list[tuple[str, str, float, tuple[float, float] | None]]]:
    """Entries of the bar plot: all but the uniform model, from which the bars hang; of the `MOST_BARS` largest sources."""
    sizes = {source: part["bases"] for source, part in evaluated["sources"].items()}
    largest = set(sorted(sizes, key=lambda source: -sizes[source])[:MOST_BARS])
    return {
        source: [
            (label, kind, figures["bits_per_base"], tuple(figures["ci95"]) if figures.get("ci95") else None)
            for label, kind, figures in _entries(part)
            if kind != "uniform"
        ]
        for source, part in _parts(evaluated).items()
        if source in largest or source not in sizes
    }


def context_lines(part: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Bits per base by context position of one source: (middle of the bin, bits) of each model."""
    names = ["titans", "transformer", "markov"]
    rows = part["context"]
    return {
        name: [((row["from"] * row["to"]) ** 0.5, row[name]) for row in rows]
        for name in names
        if rows and name in rows[0]
    }


def _method(name: str, kmer: int) -> str:
    return f"{kmer}-mer counts" if name == "kmer" else f"{NAMES[name]} embeddings"


def score_points(result: dict[str, Any]) -> list[tuple[str, str, float, tuple[float, float] | None]]:
    """Points of the plot of accuracies: (label, kind, accuracy, interval)."""
    return [
        (
            _method(name, result["kmer"]),
            name,
            method["accuracy"],
            tuple(method["accuracy_ci95"]) if method["accuracy_ci95"] else None,
        )
        for name, method in result["methods"].items()
    ]


def downstream(result: dict[str, Any], config: Config) -> dict[str, Any]:
    """The species task: a sentence, the table of scores and the confusion matrices."""
    classes = [entry["species"] for entry in result["classes"]]
    rows, matrices = [], []
    for name, method in result["methods"].items():
        label = _method(name, result["kmer"])
        values = [{"value": method[key], "interval": method[f"{key}_ci95"]} for key in METRICS]
        rows.append({"name": label, "seed": "mean", "values": values, "mean": True})
        if len(method["seeds"]) > 1:
            for seed in method["seeds"]:
                values = [{"value": seed[key], "interval": None} for key in METRICS]
                rows.append({"name": label, "seed": seed["seed"], "values": values, "mean": False})
        matrices.append({"name": label, "rows": _matrix(classes, method["confusion"])})
    settings = config.downstream
    text = (
        f"Logistic regression on frozen embeddings ({result['pooling']} over the sequence), beside logistic regression on {result['kmer']}-mer "
        f"counts of the same sequences: {result['length']} bases each, {result['train_sequences']} to train and {result['test_sequences']} to "
        f"test, taken from disjoint regions of {settings.region:,} bases. Chance is {percent(result['chance'])}. "
        f"Intervals are 95%, from {settings.bootstrap:,} resamples of the test regions."
    )
    difference = result["difference"]
    if difference["ci95"]:
        low, high = difference["ci95"]
        text += f" Accuracy of the embeddings minus that of the counts: {difference['accuracy']:+.3f} ({low:+.3f} to {high:+.3f})."
    return {"text": text, "metrics": list(METRICS.values()), "rows": rows, "classes": classes, "matrices": matrices}


def _matrix(classes: list[str], confusion: list[list[int]]) -> list[dict[str, Any]]:
    rows = []
    for label, counts in zip(classes, confusion, strict=True):
        total = max(1, sum(counts))
        rows.append({"label": label, "cells": [{"count": c, "share": 0.75 * c / total} for c in counts]})
    return rows


def facts(config: Config, metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What somebody needs to make the run again."""
    trained = metrics["train"]["titans"]
    machine = trained["hardware"]
    gpus = ", ".join(machine["gpus"])
    versions = {**metrics["data"]["versions"], **trained["versions"]}
    versions = {name.replace("_", "-"): version for name, version in versions.items()}
    seeds = f"{metrics['seed']} (splits, windows, weights)"
    if metrics["downstream"]:
        drawn = [entry["seed"] for entry in metrics["downstream"]["methods"]["titans"]["seeds"]]
        seeds += f"; {', '.join(map(str, drawn))} (species task)"
    return [
        ("run", config.run),
        ("seeds", seeds),
        ("hardware", f"{machine['cpu']}, {machine['cores']} cores" + (f"; {gpus}" if gpus else "")),
        ("system", machine["system"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))),
        ("token store", metrics["data"]["sha256"]),
        ("best weights from", f"step {trained['best_step']:,} of {trained['steps']:,}"),
    ]
