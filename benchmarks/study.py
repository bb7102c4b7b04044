"""What the settings of the memory do to speed and to bits per base: small models on the default run's genome.

`python -m benchmarks.study` trains every row, two at a time with one thread each, and writes results/study.json;
docs/study.md is written from it. A row is the default config with a small model and the changes named. Ideas that are
not part of the package (`reset`, `normalise`) are tried here by replacing one method, and stay here.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "study.json"
SMALL = {"d_model": 64, "n_heads": 1, "n_layers": 2}
SHORT = {"max_steps": 150, "warmup": 20, "validate_every": 50, "wandb": {"mode": "disabled"}, "accelerator": "cpu"}
LONG = SHORT | {"lr": 4e-4, "max_steps": 2000, "context": 512, "batch_size": 2, "validate_every": 250}


def rows() -> dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Name of a row to (model settings, train settings, trial)."""
    table: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {}
    for chunk in (16, 32, 64, 128, 256, 512, 1024):
        table[f"chunk {chunk}"] = ({"chunk": chunk}, SHORT, {})
    for depth in (1, 3, 4):
        table[f"memory of {depth} layers"] = ({"memory_layers": depth}, SHORT, {})
    for tokens in (64, 256):
        table[f"memory resets every {tokens} tokens"] = ({}, SHORT, {"reset": tokens})
    table["inner gradient normalised"] = ({}, SHORT, {"normalise": True})
    for name in ("momentum", "forgetting"):
        table[f"no {name}"] = ({name: False}, SHORT, {})
    table["no convolution"] = ({"conv": 0}, SHORT, {})
    for chunk in (64, 256):
        for precision in ("32-true", "bf16-mixed"):
            table[f"2000 steps, chunk {chunk}, {precision}"] = ({"chunk": chunk}, LONG | {"precision": precision}, {})
    return table


def try_out(trial: dict[str, Any]) -> None:
    """Replace a method of the memory in this process."""
    import torch

    from titans_genomics.models.memory import NeuralMemory

    plain = NeuralMemory.forward
    if "reset" in trial:
        size = trial["reset"]

        def forward(self: Any, x: Any, state: Any) -> Any:
            """Parallel local memories: every `size` tokens begin with M_0; the pieces are rows of one batch."""
            if x.shape[1] % size:
                return plain(self, x, state)
            y, _ = plain(self, x.reshape(-1, size, x.shape[-1]), self.begin(x.shape[0] * x.shape[1] // size))
            return y.reshape(x.shape), state

        NeuralMemory.forward = forward  # type: ignore[method-assign]
    if trial.get("normalise"):
        gates = NeuralMemory.gates

        def normalised(self: Any, x: Any) -> Any:
            """The step of a token divided by the length of its value: large errors take no larger steps than small ones."""
            alpha, eta, theta = gates(self, x)
            v = self.to_qkv(x).chunk(3, dim=-1)[2].unflatten(-1, (self.heads, self.width))
            return alpha, eta, theta / torch.clamp(v.norm(dim=-1), min=1.0)

        NeuralMemory.gates = normalised  # type: ignore[method-assign]


def measure(job: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """Train one row in this process; its figures."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    from titans_genomics.config import load_config, parse_config
    from titans_genomics.training import train

    name, store = job
    model, settings, trial = rows()[name]
    try_out(trial)
    config = load_config(FOLDER.parent / "configs" / "default.yaml").model_dump(mode="json")
    config["model"] |= SMALL | model
    config["train"] |= settings
    with tempfile.TemporaryDirectory() as out:
        summary = train(parse_config(config, name), Path(store), Path(out))
        with (Path(out) / "metrics.csv").open() as file:
            curve = [
                (int(r["step"]), round(float(r["val_bits_per_base"]), 4))
                for r in csv.DictReader(file)
                if r.get("val_bits_per_base")
            ]
    keys = ("tokens_per_second", "best_val_bits_per_base", "skipped_steps", "parameters", "hardware")
    return name, {key: summary[key] for key in keys} | {"curve": curve}


def main() -> None:
    """Train all rows, or those whose name begins as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose names begin so, comma-separated")
    only = tuple(parser.parse_args().only.split(","))
    from titans_genomics.config import load_config
    from titans_genomics.data.store import tokenize

    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    os.chdir(FOLDER.parent)
    with tempfile.TemporaryDirectory() as folder:
        tokenize(load_config("configs/default.yaml"), Path(folder) / "tokens")
        jobs = [(name, f"{folder}/tokens") for name in rows() if name.startswith(only)]
        with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
            for name, figures in pool.imap_unordered(measure, jobs, chunksize=1):
                done[name] = figures
                print(
                    f"{name:40} {figures['best_val_bits_per_base']:.4f} bits  {figures['tokens_per_second']:.0f} tokens/s",
                    flush=True,
                )
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps({n: done[n] for n in rows() if n in done}, indent=1) + "\n")


if __name__ == "__main__":
    main()
