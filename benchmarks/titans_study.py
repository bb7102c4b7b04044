"""Small models on the E. coli genome, one setting changed at a time: `python -m benchmarks.titans_study`, docs/studies.md.

python -m benchmarks.titans_study                           every run, hours on two cores
python -m benchmarks.titans_study --only chunk,stability    studies whose names begin so
python -m benchmarks.titans_study --resume                  keep the runs that the results file holds
python -m benchmarks.titans_study --list                    the studies and their runs
python -m benchmarks.titans_study --table                   only print the tables of the results file

Training is the package's own, from configs/default.yaml with 300 steps instead of 500 and more validation windows. A run
that was stopped on its way goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.machine import ROOT, commit, describe
from benchmarks.run import keep
from benchmarks.table import rows
from titans_genomics.config import Config, parse_config
from titans_genomics.data.store import tokenize
from titans_genomics.training import train

RESULTS = Path(__file__).parent / "results" / "studies.json"
WORK = ROOT / "results" / "studies"
POINTS = 200  # of a curve, at most
Changes = dict[str, Any]  # "section.key" -> value

SLOW = {"train.lr": 4e-4, "train.batch_size": 2, "train.max_steps": 2000, "train.validate_every": 500}
SHORT = {"train.max_steps": 150, "train.validate_every": 50}

STUDIES: dict[str, list[Changes]] = {
    "chunk": [{"model.chunk": b} for b in (16, 32, 64, 128, 256, 512, 1024)],
    "stability": [
        {**SLOW, "model.chunk": b, "train.precision": precision}
        for b in (64, 128, 256)
        for precision in ("32-true", "bf16-mixed")
    ],
    "depth": [
        *({**SHORT, "model.memory_layers": layers} for layers in (1, 2, 3, 4)),
        *({**SHORT, "model.memory_layers": 4, "model.theta_max": theta} for theta in (0.5 / 64, 0.2 / 64)),
    ],
    "seeds": [{"model.chunk": b, "seed": seed} for seed in (1, 2, 3) for b in (64, 128, 256)],
    "step": [{**SHORT, "model.theta_max": theta} for theta in (0.2 / 64, None, 1 / 64, 2 / 64, 4 / 64)],
    "values": [
        {**SHORT, "train.lr": lr, "model.bound_values": bound} for lr in (4e-4, 5e-3) for bound in (True, False)
    ],
}
"""Runs of each study, as what they change; a run that two studies share is made once."""


def base() -> dict[str, Any]:
    """The default run on the genome alone, with the package's own defaults filled in."""
    settings = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    settings["run"] = "studies"
    sources = [source for source in settings["data"]["sources"] if source["name"] == "ecoli"]
    settings["data"]["sources"] = [{**source, "path": str(ROOT / source["path"])} for source in sources]
    settings["train"] |= {"max_steps": 300, "validation_windows": 128, "precision": "32-true", "accelerator": "cpu"}
    settings["train"]["wandb"]["mode"] = "disabled"
    return settings


def changed(changes: Changes) -> Changes:
    """Without what is as in `base` anyway."""
    plain = base()
    return {key: value for key, value in changes.items() if look_up(plain, key) != value}


def look_up(settings: dict[str, Any], key: str) -> Any:
    """The value of "section.key"."""
    *sections, last = key.split(".")
    for section in sections:
        settings = settings[section]
    return settings.get(last)


def configure(changes: Changes) -> Config:
    """The config of a run."""
    settings = copy.deepcopy(base())
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = settings
        for section in sections:
            place = place[section]
        place[last] = value
    return parse_config(settings, label(changes))


def label(changes: Changes) -> str:
    """What the terminal and the folder of a run say."""
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in changed(changes).items()) or "default"


def measure(changes: Changes, store: Path, folder: Path) -> dict[str, Any]:
    """Train one model and gather its figures; "error" where training stopped."""
    config, found = configure(changes), {}
    try:
        summary = train(config, store, folder)
        found = {"skipped": summary["skipped_steps"], "parameters": summary["parameters"]}
    except ValueError as error:
        found["error"] = str(error)
    with (folder / "metrics.csv").open() as file:
        log = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return found | curves(log)


def curves(log: list[dict[str, float]]) -> dict[str, Any]:
    """Figures of a run from the rows of its metrics.csv; bits per base against tokens, thinned."""
    thin = log[:: math.ceil(len(log) / POINTS)] if log else []
    last = log[-1] if log else {}
    return {
        "steps": int(last.get("step", 0)),
        "tokens": int(last.get("tokens", 0)),
        "validation": [[int(row["tokens"]), row["val_bits_per_base"]] for row in log if "val_bits_per_base" in row],
        "train": [[int(row["tokens"]), round(row["bits_per_base"], 4)] for row in thin if "bits_per_base" in row],
        "inner_step": [[int(row["tokens"]), round(inner_step(row), 4)] for row in thin],
        "largest_inner_step": max(map(inner_step, log), default=math.nan),
        "largest_gradient_norm": max((row.get("grad_norm", math.nan) for row in log), default=math.nan),
        "skipped_so_far": int(last.get("skipped", 0)),
        "gates_at_the_end": {k: v for k, v in last.items() if k.split("/")[0] in ("alpha", "eta", "theta")},
    }


def inner_step(row: dict[str, float]) -> float:
    """The largest inner step of all layers in a row of metrics.csv."""
    return max((value for key, value in row.items() if key.startswith("inner_step/")), default=math.nan)


def run(names: list[str], path: Path, resume: bool) -> dict[str, Any]:
    """Make the runs of the named studies, and keep each as it ends."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    wanted = [changed(changes) for name in names for changes in STUDIES[name]]
    if not resume:
        results["runs"] = [record for record in results["runs"] if record["changed"] not in wanted]
    results["machine"] = describe(torch.get_num_threads())
    store = WORK / "tokens"
    if not store.is_dir():
        tokenize(configure({}), store)
    for changes in wanted:
        if any(record["changed"] == changes for record in results["runs"]):
            continue
        folder = WORK / label(changes).replace(" ", "_").replace(",", "")
        print(f"{datetime.now(UTC):%H:%M:%S} {label(changes)}", flush=True)
        record = {"changed": changes, **measure(changes, store, folder), "commit": commit()}
        results["runs"].append(record | {"at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")})
        keep(results, path)
        shutil.rmtree(folder)
        print(f"{datetime.now(UTC):%H:%M:%S}   {record.get('error') or record['validation'][-1]}", flush=True)
    return results


def render(results: dict[str, Any]) -> str:
    """One table per study."""
    machine = results["machine"]
    found = {json.dumps(record["changed"], sort_keys=True): record for record in results["runs"]}
    parts = [f"{machine['processor']}; torch {machine['versions']['torch']}"]
    for name, plan in STUDIES.items():
        body = []
        for changes in plan:
            record = found.get(json.dumps(changed(changes), sort_keys=True))
            if record is None:
                continue
            bits = [f"{value:.4f}" for _, value in record["validation"]]
            skipped = record.get("skipped", record["skipped_so_far"])
            cells = [f"{record['tokens']:,}", str(record["steps"]), bits[-1] if bits else "-", min(bits, default="-")]
            body.append([label(changes), *cells, f"{record['largest_inner_step']:.3f}", str(skipped)])
        head = [name, "tokens", "steps", "bits per base", "best", "largest inner step", "skipped"]
        parts.append(rows(head, body))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.titans_study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="comma-separated beginnings of study names")
    parser.add_argument("--resume", action="store_true", help="keep runs that the results file holds")
    parser.add_argument("--list", action="store_true", help="print the studies and stop")
    parser.add_argument("--table", action="store_true", help="print the tables of the results file and stop")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    chosen = parser.parse_args(arguments)
    starts = [part.strip() for part in chosen.only.split(",")]
    names = [name for start in starts for name in STUDIES if name.startswith(start)]
    if not names:
        parser.error(f"--only {chosen.only}: no study begins so; --list shows them")
    if chosen.list:
        for name in names:
            print(f"{name}: {'; '.join(map(label, STUDIES[name]))}")
        return
    if chosen.table and not chosen.out.is_file():
        parser.error(f"{chosen.out}: no results yet")
    print(render(json.loads(chosen.out.read_text()) if chosen.table else run(names, chosen.out, chosen.resume)))


if __name__ == "__main__":
    main()
