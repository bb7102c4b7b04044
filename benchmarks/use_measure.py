"""One measurement of a trained model at work in a process of its own: `python -m benchmarks.use_measure '{"side": "track", ...}'`.

Prints one line of JSON: seconds, processor seconds, the tokens that the model read, peak memory, and what two sides of a group
are to agree in. Sides are the package's commands, and beside some of them the plain way to the same numbers.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.data_task import Memory, Spec, Task
from benchmarks.use_variants import contig, plain_scoring, saturating, scoring
from titans_genomics.data.alphabet import decode, reverse_complement
from titans_genomics.tasks.sequences import token_budget
from titans_genomics.training import next_token_nll, scored_bases
from titans_genomics.use.embed import embed
from titans_genomics.use.generate import generate
from titans_genomics.use.memorize import memorize
from titans_genomics.use.reader import PIECE, Reader, open_run
from titans_genomics.use.track import track

LINE = 80  # bases in a line of FASTA
AGREE = 256  # numbers of the vectors of two sides that are compared


def write_fasta(path: Path, codes: np.ndarray, bases: int) -> Path:
    """One contig of so many bases: those of the genome, from its beginning again where they do not suffice."""
    with path.open("w") as file:
        file.write(">contig\n")
        for first in range(0, bases, LINE * 1_000):
            at = np.arange(first, min(first + LINE * 1_000, bases)) % len(codes)
            text = decode(codes[at])
            file.writelines(text[i : i + LINE] + "\n" for i in range(0, len(text), LINE))
    return path


# ------------------------------------------------------------------------------------------------ tracks


def tracking(reader: Reader, spec: Spec, folder: Path) -> Task:
    """`track` with its defaults, from FASTA to bigWig files, intervals and page."""
    fasta = write_fasta(folder / "genome.fa", contig(reader)[1], spec["bases"])

    def check(found: dict[str, Any]) -> dict[str, Any]:
        seconds = spec["bases"] / found["bases_per_second"]
        return {"amount": spec["bases"], "reading_s": seconds, "scores": {"bits": [found["bits_per_base"]]}}

    return Task(lambda: track(reader, fasta, folder / "tracks"), check)


def plain_reading(reader: Reader, spec: Spec, folder: Path) -> Task:
    """The model reads the same stretches, as many at a time as `track`, and gives bits per base."""
    codes = np.resize(contig(reader)[1], spec["bases"])

    def check(bits: float) -> dict[str, Any]:
        return {"amount": spec["bases"], "scores": {"bits": [bits]}}

    return Task(lambda: plain_bits(reader, codes), check)


@torch.inference_mode()
def plain_bits(reader: Reader, codes: np.ndarray) -> float:
    """Bits per base of a contig, its memory beginning anew after every stretch of the run."""
    tokens = torch.from_numpy(reader.tokenizer.encode(codes).astype(np.int64))
    stretch = reader.stretch or len(tokens)
    at_once = max(1, token_budget(reader.device) // stretch) * stretch
    scored, bits, bases = scored_bases(reader.tokenizer), 0.0, 0.0
    for first in range(0, len(tokens) - 1, at_once):
        inputs, targets = tokens[first : first + at_once], tokens[first + 1 : first + 1 + at_once]
        inputs = inputs[: len(targets)]
        whole = len(inputs) // stretch * stretch
        for start, end, length in ((0, whole, stretch), (whole, len(inputs), len(inputs) - whole)):
            if end == start:
                continue
            x, y = (part[start:end].view(-1, length).to(reader.device) for part in (inputs, targets))
            state = reader.state(len(x))
            for own, wanted in zip(x.split(PIECE, 1), y.split(PIECE, 1), strict=True):
                logits, state = reader.model(own, state)
                bits += float(next_token_nll(logits, wanted, scored).double().sum()) / math.log(2)
                bases += float(scored[wanted].sum())
    return bits / bases


# ----------------------------------------------------------------------------- embed, generate, memorize


def embedding(reader: Reader, spec: Spec, folder: Path) -> Task:
    """`embed`: FASTA to Parquet, both strands, mean, each sequence read without a break."""
    fasta, out = folder / "sequences.fa", folder / "out.parquet"
    rows = sequences(reader, spec)
    fasta.write_text("".join(f">{i}\n{decode(row)}\n" for i, row in enumerate(rows)))

    def check(_: object) -> dict[str, Any]:
        found = np.stack(pq.read_table(out)["vector"].to_numpy())
        return {"amount": len(found), "scores": {"vector": found.ravel()[:AGREE].tolist()}}

    return Task(lambda: embed(reader, fasta, out, stretch=0), check)


def one_by_one(reader: Reader, spec: Spec, folder: Path) -> Task:
    """The vectors of `embed` with a call of the model for each sequence and strand."""
    rows = sequences(reader, spec)

    @torch.inference_mode()
    def work() -> np.ndarray:
        found = []
        for codes in rows:
            views = []
            for view in (codes, reverse_complement(codes)):
                tokens = torch.from_numpy(reader.tokenizer.encode(view).astype(np.int64))[None].to(reader.device)
                hidden, _ = reader.model.embed(tokens, reader.state(1))
                views.append(hidden[0].double().mean(0).cpu().numpy())
            found.append((views[0] + views[1]) / 2)
        return np.stack(found)

    def check(found: np.ndarray) -> dict[str, Any]:
        return {"amount": len(found), "scores": {"vector": found.ravel()[:AGREE].tolist()}}

    return Task(work, check)


def sequences(reader: Reader, spec: Spec) -> list[np.ndarray]:
    """Stretches of the genome, evenly spread: base codes (length,) each."""
    codes = contig(reader)[1]
    starts = np.linspace(0, len(codes) - spec["length"], spec["count"]).astype(np.int64)
    return [codes[start : start + spec["length"]] for start in starts]


def generating(reader: Reader, spec: Spec, folder: Path) -> Task:
    """`generate` from nothing, all sequences side by side."""
    count, length = spec["count"], spec["length"]
    return Task(
        lambda: generate(reader, folder / "out.fa", length, count, batch=count),
        lambda found: {"amount": found["bases"]},
    )


def memorizing(how: Any, reader: Reader, spec: Spec, folder: Path) -> Task:
    """`memorize`, both strands."""
    fasta = write_fasta(folder / "genome.fa", contig(reader)[1], spec["bases"])
    return Task(lambda: memorize(reader, fasta, folder / "out.safetensors", how), lambda _: {"amount": spec["bases"]})


SIDES: dict[str, Callable[[Reader, Spec, Path], Task]] = {
    "score-variants": scoring,
    "saturate": saturating,
    "two passes per variant and strand": plain_scoring,
    "track": tracking,
    "plain forward pass": plain_reading,
    "embed": embedding,
    "one sequence at a time": one_by_one,
    "generate": generating,
    "memorize, mean": partial(memorizing, "mean"),
    "memorize, last": partial(memorizing, "last"),
}


def measure(spec: Spec) -> dict[str, Any]:
    """Warm up with ``spec | spec["warm"]``, then take the time of the work of a side."""
    torch.set_flush_denormal(True)
    reader, build = open_run(spec["run"]), SIDES[spec["side"]]
    read = 0

    def count(module: object, inputs: tuple[torch.Tensor]) -> None:
        nonlocal read
        read += inputs[0].numel()

    with tempfile.TemporaryDirectory(dir=spec["scratch"]) as folder:
        for name, own in (("warm", spec | spec["warm"]), ("measured", spec)):
            (Path(folder) / name).mkdir()
            task = build(reader, own, Path(folder) / name)
            if name == "warm":
                task.work()
        hook = reader.model.embedding.register_forward_pre_hook(count)
        with Memory() as memory:
            start, processor = time.perf_counter(), time.process_time()
            result = task.work()
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
        hook.remove()
        figures = task.check(result)
    return figures | {
        "seconds": seconds,
        "processor_s": processor,
        "tokens": read,
        "peak_mb": memory.peak,
        "baseline_mb": memory.baseline,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
