"""The results of a run, made up: what every stage leaves as JSON, for the tests of what is made of it."""

import copy
import json
from pathlib import Path

import yaml

from titans_genomics.config import Config, parse_config

ROOT = Path(__file__).parent.parent
HARDWARE = {"cpu": "A CPU", "cores": 2, "threads": 2, "gpus": [], "system": "Linux"}


def figures(bits):
    return {"bits_per_base": bits, "perplexity": 2**bits, "ci95": [bits - 0.01, bits + 0.01]}


def evaluated(**bits):
    """evaluate.json of models with so many bits per base."""
    bits = bits or {"titans": 1.9, "transformer": 1.95}

    def part():
        models = {name: figures(value) for name, value in bits.items()}
        for model in models.values():
            less = model["bits_per_base"] - 1.936
            model["endless"] = {"bits_per_base": 1.8765}
            model["difference_to_markov"] = {"bits_per_base": less, "ci95": [less - 0.004, less + 0.004]}
        rows = [
            {"from": 2**i, "to": 2 ** (i + 1) - 1, "bases": 9, "markov": 1.936, **dict.fromkeys(bits, 2 - i / 99)}
            for i in range(10)
        ]
        return {
            "bases": 8191,
            "uniform": {"bits_per_base": 2.0, "perplexity": 4.0},
            "markov": figures(1.936),
            "models": models,
            "context": rows,
        }

    sources = {"hpylori": part(), "reads": part()}
    for source in sources.values():
        source["markov"] |= {"order": 7, "smoothing": 1.0}
    return {"split": "test", "seed": 1, "train_context": 128, "sources": sources, "overall": part()}


def species(*lengths):
    def method(accuracy):
        scores = dict.fromkeys(("accuracy", "mcc", "macro_f1"), accuracy)
        return (
            scores
            | {f"{key}_ci95": [accuracy - 0.1, accuracy + 0.05] for key in scores}
            | {"seeds": [{"seed": s, **scores, "C": 1.0} for s in (0, 1)], "confusion": [[17, 3], [2, 18]]}
        )

    return {
        "task": "species",
        "classes": ["Helicobacter <pylori>", "Staphylococcus aureus"],
        "kmer": 4,
        "pooling": "mean",
        "chance": 0.5,
        "lengths": [
            {
                "length": length,
                "classes": [],
                "per_class": 40,
                "train_sequences": 56,
                "test_sequences": 24,
                "methods": {"titans": method(0.875 + i / 100), "kmer": method(0.8)},
                "difference": {"accuracy": 0.075 + i / 100, "ci95": [-0.1, 0.2]},
            }
            for i, length in enumerate(lengths or (128,))
        ],
    }


def manifest():
    def source(name, records, dropped):
        return {
            "name": name, "path": f"resources/{name}.fa.gz", "species": None, "weight": 1.0, "sha256": "ab" * 32, "bytes": 1234, "bases": 400_000,
            "n": 17, "gc": 0.388, "soft_masked": 5, "records": records, "kept": 10, "dropped": dropped, "split_by": "block",
            "tokens": {"train": 318_090, "validation": 40_965, "test": 40_964},
        }  # fmt: skip

    return {
        "sha256": "cd" * 32,
        "sources": [source("hpylori", "contigs", {}), source("reads", "reads", {"secondary alignment": 30})],
        "totals": {"bases": 800_000, "n": 34, "iupac": 3, "soft_masked": 10, "gc": 0.388},
        "leaks": {
            "tool": "sketch", "k": 21, "max_share": 0.3, "moved": 0, "moved_bases": 0,
            "held": [{"source": "hpylori", "split": "test", "judged": 40_964, "share": 0.0421, "pairs": [{"train": "reads"}]}],
        },
        "warnings": ["source reads: too few units to hold any out for test"],
        "versions": {"pysam": "9.9.9"},
        "config": {},
        "runs": [],
    }  # fmt: skip


def trained(name):
    return {
        "model": name, "steps": 50, "tokens": 25_600, "seconds": 75.2, "tokens_per_second": 340.4, "parameters": 28_524, "skipped_steps": 2,
        "best_val_bits_per_base": 1.91234, "best_step": 40, "seed": 1, "versions": {"torch": "2.13.0"},
        "hardware": HARDWARE | {"gpus": ["A GPU"]},
    }  # fmt: skip


def score(method, model, accuracy):
    """score.json of a dataset of two classes."""

    def summary(shift):
        return {
            metric: {"mean": accuracy + shift, "sd": 0.01, "ci95": [accuracy + shift - 0.02, accuracy + shift + 0.02]}
            for metric in ("accuracy", "mcc", "auroc")
        }

    return {
        "dataset": "promoters", "method": method, "model": model, "protocol": "caduceus", "selected_on": "validation",
        "label": "chosen on a part of train; test read once", "task": "classification", "metric": "accuracy",
        "pooling": "mean", "strands": "both", "test_sequences": 200, "deduplicated_sequences": 110,
        "trial": "lr0.001-batch128" if method == "finetune" else None, "trials": [],
        "seeds": [{"seed": seed, "validation": accuracy, "test": {"accuracy": accuracy + seed / 1000}} for seed in (0, 1)],
        "test": summary(0.0), "deduplicated": summary(-0.1), "hyperparameters": {}, "confusion": [[80.5, 19.5], [30, 70]],
        "calibration": {"ece": 0.0417, "bins": [
            {"from": 0.5, "to": 0.6, "count": 0, "confidence": None, "accuracy": None},
            {"from": 0.6, "to": 0.7, "count": 50, "confidence": 0.66, "accuracy": 0.61},
            {"from": 0.9, "to": 1.0, "count": 150, "confidence": 0.97, "accuracy": 0.95},
        ]},
        "cost": {"seconds": 1800.0, "sequences_per_second": 432.1, "parameters": 28_590, "trained_parameters": 66, "hardware": HARDWARE},
    }  # fmt: skip


def table(scores):
    """table.json of these rows."""
    rows = []
    for one in scores:
        row = {
            key: value
            for key, value in one.items()
            if key not in ("dataset", "task", "metric", "confusion", "calibration")
        }
        row["seeds"] = [
            {"seed": s["seed"], "validation": s["validation"], "test": s["test"]["accuracy"]} for s in one["seeds"]
        ]
        row["differences"] = {} if one["method"] == "kmer" else {"kmer": {"difference": 0.0321, "ci95": [0.01, 0.05]}}
        rows.append(row)
    return {
        "dataset": {
            "name": "promoters", "suite": None, "task": "classification", "classes": ["no <promoter>", "promoter"], "metric": "accuracy",
            "sequences": {"train": 900, "validation": 0, "test": 200}, "per_class": {}, "length": {"min": 251, "median": 251, "max": 251},
            "cut": 0, "limited_to": None, "warnings": ["7 sequences stand there with different labels"],
            "leaks": {"test": 200, "verbatim": 60, "near": 90, "verbatim_share": 0.3, "near_share": 0.45},
        },
        "run": "full", "protocol": "caduceus", "selected_on": "validation", "metric": "accuracy", "rows": rows,
        "published": [{"model": "HyenaDNA", "value": 0.966, "protocol": "hyenadna (selects on test)", "source": "HyenaDNA paper"}],
    }  # fmt: skip


def needle(*names):
    """needle.json: the first model recalls up to 1,024 bases at all depths, what else there is nothing."""

    def cell(first, length, depth):
        gain = 0.4 if first and length == 512 else 0.002
        values = {"recall": 0.25 + gain, "exact": 0.0, "bits": 2 - gain, "accuracy": 0.25 + gain}
        values |= {f"control_{key}": {"bits": 2.0, "exact": 0.0}.get(key, 0.25) for key in list(values)}
        values |= {"gain_recall": gain, "gain_bits": gain}
        ends = {key: [value - 0.05, value + 0.05] for key, value in values.items()}
        return {
            "length": length,
            "depth": depth,
            "stretches": 4,
            "distance": int(length * (1 - depth)),
            **values,
            "ci95": ends,
        }

    def model(first):
        lengths = [
            {"length": n, "stretches": 4, "seconds": 1.5, "bases_per_second": 999.0, "peak_mb": 300.0}
            for n in (512, 4096)
        ]
        cells = [cell(first, length, depth) for length in (512, 4096) for depth in (0.0, 0.5)]
        return {"cells": cells, "lengths": lengths, "seconds": 3.0, "bases_per_second": 999.0, "peak_mb": 300.0}

    return {
        "motif": 32, "payload": 16, "lengths": [512, 4096], "depths": [0.0, 0.5], "split": "test", "source": "hpylori", "source_bases": 40_964,
        "repeated_background": [], "seed": 1, "train_context": 128, "resamples": 2000,
        "models": {name: model(i == 0) for i, name in enumerate(names)},
    }  # fmt: skip


def variants(*names):
    def method(auroc):
        return {"auroc": {"value": auroc, "ci95": [auroc - 0.03, auroc + 0.03]}, "score": {"median": -0.1}}

    methods = {"markov": method(0.55), "transitions": method(0.52)} | {name: method(0.61) for name in names}
    for name in names:
        methods[name]["difference_to_markov"] = {"metric": "auroc", "difference": 0.06, "ci95": [0.01, 0.11]}
    own = {
        "path": "x.csv", "variants": 300, "kind": "labels", "labels": {"0": 180, "1": 120}, "length": {"min": 201, "median": 201, "max": 201},
        "direction": "label 1 is the less likely variant", "methods": methods,
    }  # fmt: skip
    return {"task": "variants", "markov": {"order": 6, "smoothing": 1.0}, "models": {}, "sets": {"clinical": own}}


CURVE = "step,tokens,loss,bits_per_base,lr,grad_norm,tokens_per_second,skipped,val_bits_per_base,alpha/0,alpha/1,eta/0,eta/1,theta/0,theta/1,surprise/0,surprise/1\n"


def curve():
    """metrics.csv."""
    rows = [
        f"{s},{s * 512},1.4,{2 - s / 500},0.001,{'nan' if s == 20 else 1.0},{s},0,{1.95 if s % 20 == 0 else ''},"
        + ",".join(["0.1"] * 8)
        for s in range(10, 60, 10)
    ]
    return CURVE + "\n".join(rows) + "\n"


def write(folder: Path, path: str, content) -> None:
    path = folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def tiny_run(folder: Path) -> Path:
    """The results of configs/tiny.yaml."""
    write(folder, "tokens/manifest.json", manifest())
    for name in ("titans", "transformer"):
        write(folder, f"train/{name}/train.json", trained(name))
        write(folder, f"train/{name}/metrics.csv", curve())
    write(folder, "evaluate/evaluate.json", evaluated())
    write(folder, "species/species.json", species())
    return folder


COMPARE = {"mac": {"variant": "mac"}, "no_conv": {"conv": 0}, "four_layers": {"memory_layers": 4}}
"""What a whole run has beside titans and transformer."""

MODELS = ("titans", "transformer", *COMPARE)


def full_settings() -> dict:
    """The settings of a run that asks for everything."""
    settings = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    return copy.deepcopy(settings) | {
        "run": "full",
        "compare": COMPARE,
        "species": settings["species"] | {"length": [128, 1024], "region": 4096},
        "downstream": {
            "datasets": [{"path": "promoters.csv"}],
            "methods": ["finetune", "probe", "kmer"],
            "seeds": [0, 1],
        },
        "needle": {"lengths": [512, 4096], "depths": [0.0, 0.5]},
        "variants": {"sets": [{"path": "clinical.csv"}]},
    }


def full_config() -> Config:
    return parse_config(full_settings(), "full")


def full_run(folder: Path) -> Path:
    """The results of `full_config`, but for ablations.json."""
    tiny_run(folder)
    for name in COMPARE:
        write(folder, f"train/{name}/train.json", trained(name))
        write(folder, f"train/{name}/metrics.csv", curve())
    write(
        folder,
        "evaluate/evaluate.json",
        evaluated(titans=1.9, transformer=1.95, mac=1.89, no_conv=1.93, four_layers=1.88),
    )
    write(folder, "species/species.json", species(128, 1024))
    scores = [
        score("finetune", "titans", 0.91),
        score("probe", "titans", 0.87),
        score("probe", "mac", 0.86),
        score("kmer", "none", 0.84),
    ]
    for one in scores:
        write(folder, f"downstream/promoters/{one['method']}/{one['model']}/score.json", one)
    write(folder, "downstream/promoters/table.json", table(scores))
    write(folder, "needle/needle.json", needle(*MODELS))
    write(folder, "variants/variants.json", variants("titans", "mac"))
    return folder
