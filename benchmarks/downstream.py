"""`python -m benchmarks.downstream`: fine-tuning and prediction, sequences per second, each variant beside the Transformer.

python -m benchmarks.downstream              everything, a quarter of an hour on two cores
python -m benchmarks.downstream --quick      small, a minute
python -m benchmarks.downstream --table      only print the tables of the results file

Embeddings cost what prediction does: it is the same reading. Sequences are stretches of the *E. coli* genome that the repository ships, models those of the default config with fresh weights;
every measurement is a process of its own, sides take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, describe
from benchmarks.run import in_own_process, keep, taken
from benchmarks.table import number, put_between, rows

RESULTS = Path(__file__).parent / "results" / "downstream.json"
SIDES = ("lmm", "mac", "mag", "mal", "transformer")
LENGTHS = (250, 1_000)
MIXED = "200 to 600"
WORK = ("fine-tuning", "prediction, both strands")
LIMIT = 600  # seconds after which one measurement is given up


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process: ``{"sequences", "seconds", "bases", "peak_mb", "parameters"}``."""
    import numpy as np
    import torch

    from benchmarks.data_task import Memory
    from titans_genomics.config import DataConfig, SourceConfig, TitansConfig
    from titans_genomics.data.labelled import Labelled
    from titans_genomics.data.readers import read_records
    from titans_genomics.data.tokenizers import Nucleotides
    from titans_genomics.models.classifier import Classifier
    from titans_genomics.tasks.finetune_fit import Fitting, Schedule
    from titans_genomics.tasks.sequences import predict
    from titans_genomics.training import build_model

    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    least, most = (200, 600) if spec["length"] == MIXED else (spec["length"], spec["length"])
    source = SourceConfig(path=ROOT / "resources" / "ecoli_k12.fa.gz")
    genome = np.concatenate([codes for _, codes in read_records(source, DataConfig(sources=(source,)))])
    lengths = rng.integers(least, most + 1, spec["sequences"])
    starts = rng.integers(0, len(genome) - most, spec["sequences"])
    ends = np.r_[0, np.cumsum(lengths)]
    codes = np.concatenate([genome[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    targets = rng.integers(0, 2, spec["sequences"])
    data = Labelled(
        name="benchmark", task="classification", classes=("a", "b"), metric="accuracy",
        ids=[str(i) for i in range(spec["sequences"])], codes=codes, offsets=ends, targets=targets,
        split=np.zeros(spec["sequences"], np.uint8), groups=None, copies=np.zeros(spec["sequences"], np.uint8), info={},
    )  # fmt: skip
    everything = np.arange(spec["sequences"])
    name = "transformer" if spec["side"] == "transformer" else "titans"
    shape = TitansConfig(
        variant="lmm" if name == "transformer" else spec["side"], window=max(256, most * (name == "transformer"))
    )
    network = Classifier(build_model(name, shape), 2, "mean")
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        schedule = Schedule(
            lr=1e-3, batch_size=spec["batch"], epochs=1, patience=1, warmup=0.1, weight_decay=0.1, betas=(0.9, 0.95), clip=1.0,
            max_nonfinite=1, strands="both", seed=0, bf16=False,
        )  # fmt: skip
        fitting = Fitting(network, data, everything, everything, Nucleotides(), schedule, {}, device, Path(scratch))
        warm = everything[: min(32, len(everything))]

        def work(rows: np.ndarray) -> None:
            if spec["work"] == "fine-tuning":
                network.train()
                for first in range(0, len(rows), spec["batch"]):
                    own = rows[first : first + spec["batch"]]
                    fitting.step(own, rng.random(len(own)) < 0.5)
            else:
                predict(network, data, rows, Nucleotides(), "both", device)

        work(warm)
        with Memory() as memory:
            started = time.perf_counter()
            work(everything)
            seconds = time.perf_counter() - started
    return {
        "sequences": len(everything),
        "bases": int(ends[-1]),
        "seconds": seconds,
        "peak_mb": memory.peak,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def run(quick: bool, path: Path, threads: int, rounds: int = 3) -> dict[str, Any]:
    """Measure everything; each result is kept at once."""
    results: dict[str, Any] = {"machine": describe(threads), "runs": []}
    rounds = 1 if quick else rounds
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    for length in LENGTHS[:1] if quick else (*LENGTHS, MIXED):
        for work in WORK:
            for number_ in range(rounds):
                for side in SIDES:
                    size = 64 if quick else max(128, 128_000 // (400 if length == MIXED else length))
                    spec = {
                        "work": work,
                        "length": length,
                        "side": side,
                        "sequences": size,
                        "batch": 32 if quick else 128,
                    }
                    found = taken(partial(in_own_process, "benchmarks.downstream", spec, env, LIMIT))
                    record = {**spec, "round": number_, **found}
                    results["runs"].append(record)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    keep(results, path)
                    figure = record.get("error") or f"{record['sequences'] / record['seconds']:,.0f} sequences/s"
                    print(f"{work} | {length} bases | {side}: {figure}", flush=True)
    return results


def render(results: dict[str, Any]) -> str:
    """The tables: sequences per second, median of the rounds, and the ratio to the Transformer of the same run."""
    machine = results["machine"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; torch {machine['versions']['torch']}; "
        f"{machine['date']}; commit {results['runs'][0]['commit']}. Models of the default config, batches of "
        f"{results['runs'][0]['batch']}; {1 + max(r['round'] for r in results['runs'])} round(s). In brackets: ratio to the Transformer; peak memory, MB."
    ]
    for work in dict.fromkeys(r["work"] for r in results["runs"]):
        body = []
        for length in dict.fromkeys(r["length"] for r in results["runs"]):
            own = [r for r in results["runs"] if (r["work"], r["length"]) == (work, length) and "error" not in r]

            def median(side: str, own: list[dict[str, Any]] = own) -> float | None:
                rates = [r["sequences"] / r["seconds"] for r in own if r["side"] == side]
                return statistics.median(rates) if rates else None

            base = median("transformer")
            cells = [str(length)]
            for side in SIDES:
                rate, peaks = median(side), [r["peak_mb"] for r in own if r["side"] == side]
                ratio = f"{rate / base:.2f}x; " if rate and base else ""
                cells.append(f"{number(rate)} ({ratio}{number(max(peaks, default=None))})")
            body.append(cells)
        parts += [f"### {work[0].upper()}{work[1:]}, sequences per second", rows(["bases", *SIDES], body)]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="small, one round; does not touch the docs")
    parser.add_argument("--table", action="store_true", help="only print the tables of the results file")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    if options.spec:
        print(json.dumps(measure(json.loads(options.spec))))
        return
    path = RESULTS.with_stem("downstream-quick") if options.quick else RESULTS
    results = (
        json.loads(path.read_text()) if options.table else run(options.quick, path, options.threads, options.rounds)
    )
    print(render(results))
    if not options.quick:
        put_between(ROOT / "docs" / "benchmarks.md", "downstream", render(results))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
