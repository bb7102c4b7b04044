"""A needle in text (RULER's S-NIAH) and BABILong: one model at a time, trained on the task first where the config says so.

Every prompt is read as a stream of pieces with the state carried, and the value is asked for right behind it: once by greedy generation
(RULER's figure: does the answer contain the value?) and once with the true value given token by token, which is finer than all or nothing.
Each depth has prompts of its own, the same for every model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_genomics.config import Config, NiahConfig
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer
from titans_genomics.files import file_sha256, read_json, write_json
from titans_genomics.progress import Progress
from titans_genomics.tasks.babilong import babilong, drawn
from titans_genomics.tasks.niah_read import batches, forced, generate, interval, read
from titans_genomics.tasks.niah_samples import KINDS, Haystack, Kind, Prompt, draw, noise, text_of
from titans_genomics.tasks.niah_tune import checksum, tune
from titans_genomics.tasks.peak import peak_mb, reset_peak
from titans_genomics.training import build_model, check_model, load_model, model_config, with_vocabulary
from titans_genomics.training.export import save_model
from titans_genomics.training.logs import hardware, versions

RESULT = "result.json"
"""What is left of each model."""


def niah(config: Config, store: Path, name: str, trained: Path | None, out: Path) -> dict[str, Any]:
    """Train one model on needles (``niah.fit``), measure it at every kind, length and depth, and write the figures.

    What is there already, of the same settings, tokens and weights to begin with, is given back.

    Parameters
    ----------
    config : Config
        The run; what is measured stands in ``config.niah``.
    store : Path
        Token store folder, tokens of text.
    name : str
        A model of the run.
    trained : Path or None
        The output folder of ``train`` of that model; not looked at with ``niah.start: fresh``.
    out : Path
        Folder to write: result.json; with ``niah.fit.steps`` also the weights (model.safetensors, model.json), and last.pt, from which a killed
        training goes on.

    Returns
    -------
    dict
        ``model``, ``variant``, ``parameters``, ``seed``, ``tokenizer``, ``haystack`` (``name``, ``tokens``), ``repeated_haystack`` (the lengths that
        repeat the haystack), ``train_context`` (tokens of the windows of the training before), ``training`` (None without; see
        `learn.learn`), ``cells`` (one per kind, length and depth) and ``lengths`` (one per kind and length), see `measure`;
        ``babilong``: None without, see `babilong.babilong`; ``identity`` (what the figures depend on), ``hardware`` and ``versions``.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no model, or it comes from another config or token store; when the tokens are not those of text, there is no
        haystack, or a length has no room for needle and question.
    """
    settings = config.niah
    if not settings.asked:
        raise ValueError(
            "niah.kinds is empty and niah.babilong is not given: name kinds of needles (pk, n, w) or files of bAbI"
        )
    tokens = TokenStore(store)
    if not tokens.tokenizer.text:
        raise ValueError(
            f"{tokens.path}: its tokens are {tokens.tokenizer.kind}, and these needles are text. Needles in genomes: section `needle`"
        )
    config = with_vocabulary(config, tokens)
    for other in settings.fits:
        if other not in config.models:
            raise ValueError(f"niah.fits: {other!r} is not a model of this run ({', '.join(config.models)})")
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    shape = model_config(config, name)
    if settings.start == "fresh":
        torch.manual_seed(config.seed)
        model = build_model(name, shape).to(device)
    else:
        if trained is None:
            raise FileNotFoundError(
                f"model {name!r}: where `titans-genomics train` left it is not given (niah.start is trained)"
            )
        check_model(config, tokens, Path(trained))
        model = load_model(trained, device)
    expected, path = identity(config, tokens, name) | {"weights": checksum(model)}, Path(out) / RESULT
    if path.is_file() and (not settings.fit_of(name).steps or (Path(out) / "model.safetensors").is_file()):
        found = read_json(path, f"niah --model {name}")
        if found.get("identity") == expected:
            return found
    needles = haystacks(settings, tokens, "test")
    for length in settings.lengths if settings.kinds else ():  # before any work: is there room?
        for kind in settings.kinds:
            draw(np.random.default_rng(0), tokens.tokenizer, needles[kind], kind, length, 0.5)
    questions = drawn(settings, tokens, config.seed) if settings.babilong else None
    training = None
    if settings.fit_of(name).steps:
        training = tune(
            model,
            config,
            tokens,
            haystacks(settings, tokens, "train"),
            haystacks(settings, tokens, "validation"),
            Path(out),
            name,
        )
        save_model(Path(out), name, shape, model, tokens, training["steps"])
    result: dict[str, Any] = {
        "model": name,
        "variant": shape.variant,
        "parameters": model.parameter_count(),
        "seed": config.seed,
        "tokenizer": tokens.tokenizer.kind,
        "haystack": {
            "name": settings.haystack.name if settings.haystack else "held-out text of the run",
            "tokens": max((len(needles[kind].tokens) for kind in settings.kinds if kind != "pk"), default=0),
        },
        "repeated_haystack": [
            length
            for length in settings.lengths
            if any(kind != "pk" and length > len(needles[kind].tokens) for kind in settings.kinds)
        ],
        "train_context": (settings.context or config.train.context) if training else config.train.context,
        "training": training,
        **measure(model, settings, tokens.tokenizer, needles, config.seed, name),
        "babilong": babilong(model, settings, tokens.tokenizer, *questions, name) if questions else None,
        "identity": expected,
        "hardware": hardware(),
        "versions": versions(),
    }
    write_json(path, result)
    return result


def identity(config: Config, store: TokenStore, name: str) -> dict[str, Any]:
    """What the figures of a model depend on beside the weights it begins with, as plain values; ``config`` has the store's vocabulary."""
    settings = config.niah
    files = [settings.haystack] if settings.haystack else []
    files += settings.babilong.files if settings.babilong else []
    return {
        "store": store.sha256,
        "seed": config.seed,
        "model": model_config(config, name).model_dump(mode="json"),
        "context": settings.context or config.train.context,
        "settings": settings.model_dump(mode="json", exclude={"piece", "context", "fit", "fits"}),
        "fit": settings.fit_of(name).model_dump(mode="json", exclude={"checkpoint_every"}),
        "files": {str(path): _sha256(path) for path in files},
    }


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (niah.haystack, niah.babilong.files)")
    return file_sha256(path)


def table(config: Config, store: Path, folder: Path) -> dict[str, Any]:
    """Put the results of all models of the run side by side, in ``niah.json``.

    ``folder`` holds MODEL/result.json. Returns ``run``, ``kinds``, ``lengths``, ``depths``, ``models``: name to what `niah` returned, and
    ``hardware`` and ``versions`` of the first model.

    Raises FileNotFoundError when a model has not been measured yet, ValueError when it was with other settings or tokens than the config's.
    """
    settings, folder, tokens = config.niah, Path(folder), TokenStore(store)
    shaped, models = with_vocabulary(config, tokens), {}
    for name in config.models:
        path = folder / name / RESULT
        models[name] = found = read_json(path, f"niah --model {name}")
        made = {key: value for key, value in found.get("identity", {}).items() if key != "weights"}
        if made != identity(shaped, tokens, name):
            raise ValueError(
                f"{path}: measured with other settings or tokens than the config's; run `titans-genomics niah --model {name}` again"
            )
    first = next(iter(models.values()))
    result = {
        "run": config.run,
        "kinds": list(settings.kinds),
        "lengths": list(settings.lengths),
        "depths": list(settings.depths),
        "models": models,
        "hardware": first["hardware"],
        "versions": first["versions"],
    }
    write_json(folder / "niah.json", result)
    return result


def haystacks(settings: NiahConfig, store: TokenStore, split: str) -> dict[Kind, Haystack]:
    """The haystack of each kind: for the test that of ``niah.haystack`` where it is given, else that split of the run."""
    found: dict[Kind, Haystack] = {}
    text = None
    for kind in settings.kinds:
        if kind == "pk":
            found[kind] = noise(store.tokenizer)
            continue
        if text is None:
            text = text_of(settings.haystack if split == "test" else None, store, split)
        found[kind] = text
    return found


def samples(settings: NiahConfig, length: int) -> int:
    """Prompts per depth at a length: ``niah.samples``, fewer where they would be more than ``niah.max_tokens`` together."""
    return max(1, min(settings.samples, settings.max_tokens // (length * len(settings.depths))))


def measure(
    model: Any, settings: NiahConfig, tokenizer: Tokenizer, needles: dict[Kind, Haystack], seed: int, what: str
) -> dict[str, Any]:
    """Figures of a model at every kind, length and depth; the same prompts for every model.

    ``cells``: ``kind``, ``length``, ``depth``, ``samples``, ``distance`` (mean tokens from needle to answer), ``found`` (share of answers, written greedily,
    that hold the value), ``accuracy`` (share of the value's tokens that are the most likely ones when those before are given),
    ``exact`` (share of prompts in which all are), ``bits`` (per byte of the value). ``lengths``: the same over all depths, with
    ``found_ci95`` (Wilson), ``seconds``, ``tokens_per_second`` of reading and answering, and ``peak_mb``.
    """
    cells: list[dict[str, Any]] = []
    lengths: list[dict[str, Any]] = []
    total = len(settings.kinds) * sum(samples(settings, n) * n * len(settings.depths) for n in settings.lengths)
    if not total:
        return {"cells": cells, "lengths": lengths}
    device = next(model.parameters()).device
    with Progress(total, "tokens", f"needles in text, {what}") as progress:
        for kind in settings.kinds:
            for length in settings.lengths:
                begun = time.monotonic()
                reset_peak(device)
                prompts = [
                    draw(
                        np.random.default_rng([seed, KINDS.index(kind), length, number, sample]),
                        tokenizer, needles[kind], kind, length, depth,
                    )
                    for number, depth in enumerate(settings.depths)
                    for sample in range(samples(settings, length))
                ]  # fmt: skip
                parts = [
                    ask(model, tokenizer, prompts[own], settings, progress)
                    for own in batches(len(prompts), length, settings.piece)
                ]
                figures = np.concatenate(parts).reshape(len(settings.depths), -1, len(FIGURES))
                place = {"kind": kind, "length": length}
                cells += [
                    place
                    | {"depth": depth, "samples": len(own), "distance": round(float(own[:, -1].mean()))}
                    | dict(zip(FIGURES[:-1], own[:, :-1].mean(0).tolist(), strict=True))
                    for depth, own in zip(settings.depths, figures, strict=True)
                ]
                flat = figures.reshape(-1, len(FIGURES))
                seconds = time.monotonic() - begun
                row = (
                    place | {"samples": len(flat)} | dict(zip(FIGURES[:-1], flat[:, :-1].mean(0).tolist(), strict=True))
                )
                row["found_ci95"] = interval(int(flat[:, 0].sum()), len(flat))
                row |= {"seconds": round(seconds, 3), "tokens_per_second": len(flat) * length / seconds}
                lengths.append(row | {"peak_mb": peak_mb(device)})
                progress.update(0, note=f"{kind} at {length:,} tokens: {row['found']:.0%} found")
    return {"cells": cells, "lengths": lengths}


FIGURES = ("found", "accuracy", "exact", "bits", "distance")


def ask(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[Prompt], settings: NiahConfig, progress: Progress
) -> np.ndarray:
    """Read prompts of one length and ask for their values: `FIGURES` of each, (prompts, 5) float64."""
    logits, state = read(model, prompts, settings.piece, progress.update)
    bits, right = forced(model, logits, state, [prompt.answer for prompt in prompts])
    texts = generate(model, logits, state, tokenizer, settings.answer, lambda row, text: prompts[row].value in text)
    figures = []
    for prompt, text, own_bits, own_right in zip(prompts, texts, bits, right, strict=True):
        size = len(prompt.answer)
        told = own_right[:size][prompt.counted]
        figures.append(
            (
                prompt.value.casefold() in text.casefold(),
                told.mean(),
                told.min(),
                own_bits[:size][prompt.counted].sum() / len(prompt.value),
                prompt.distance,
            )
        )
    return np.array(figures, dtype=np.float64)
