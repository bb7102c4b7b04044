"""State tracking: after each letter of a word, which element of a group is the product so far (the word problem; the paper's Theorem 4.1)?

Words are made of a generating set, of S_5 its ten swaps and the identity. That is as hard as words of all elements, since each of these is a product of a
bounded number of generators, and leaves 11 x 120 products to be learned instead of 120 x 120. A model reads a word once, from the left, and is
asked at every place. Where S_5 and A_5 are concerned no constant depth of parallel steps is known to be enough (the problem is complete for
NC1): what is learned on short words by such a model does not carry to long ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn

from titans_genomics.config import Config, StatesConfig
from titans_genomics.files import read_json, replacing, write_json
from titans_genomics.models import Titans
from titans_genomics.progress import Progress
from titans_genomics.tasks.learn import Task, learn
from titans_genomics.tasks.states_draw import Group, draw_words, group
from titans_genomics.training import build_model, model_config
from titans_genomics.training.logs import hardware, versions

BATCH_TOKENS = 16_384
"""Letters of all words of a batch that are read in one step."""

PIECE = 512
"""Letters that are read at a time: memory use does not depend on the length."""

TRAINING, VALIDATION, MEASURED = 0, 1, 2
"""Streams of random words: each end has draws of its own, in which long words do not meet; the few short ones there are may."""

VALIDATED = 128
"""Words of a validation."""


class Recurrent(nn.Module):
    """An LSTM with as many parameters as ``wanted``, to a row of it: a nonlinear recurrence beside the models of a run."""

    def __init__(self, vocabulary: int, width: int, wanted: int):
        super().__init__()
        found = [self.size(vocabulary, width, hidden) for hidden in range(1, 8 * width)]
        hidden = 1 + int(np.argmin(np.abs(np.array(found) - wanted)))
        self.embedding = nn.Embedding(vocabulary, width)
        self.recurrence = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    @staticmethod
    def size(vocabulary: int, width: int, hidden: int) -> int:
        """Number of learned parameters."""
        return vocabulary * width + 4 * hidden * (width + hidden + 2) + (hidden + 1) * vocabulary

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, T, vocabulary) of tokens (B, T) int64, and the state after them."""
        x, state = self.recurrence(self.embedding(tokens), state)
        return self.head(x), state


def one(config: Config, name: str, seed: int, out: Path) -> dict[str, Any]:
    """Train and measure one model with one seed; a killed training goes on, a finished one is not done again.

    Writes result.json, model.safetensors and last.pt to ``out``/MODEL/seedN. Same arguments, same result.

    Returns
    -------
    dict
        ``model``, ``seed``, ``depends_on`` (settings), ``parameters``, ``training`` (see `learn.learn`), ``lengths`` (see `measure`) and ``positions``:
        the share of right answers at each place of the longest words.

    Raises
    ------
    ValueError
        When ``states.group`` is not set, or the run has no such model or seed.
    """
    settings = config.states
    if settings.group is None:
        raise ValueError("states.group is not set: name a group, such as s5")
    if name not in config.fits("states"):
        raise ValueError(f"model {name!r} is not one of this run's: {', '.join(config.fits('states'))}")
    if seed not in settings.seeds:
        raise ValueError(f"seed {seed} is not one of states.seeds ({', '.join(map(str, settings.seeds))})")
    problem, folder = group(settings.group), out / name / f"seed{seed}"
    device = torch.device("cuda" if config.train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)
    network, shape = build(config, name, seed, problem)
    identity, depends = _identity(config, name, seed, shape), _depends(config, name, seed, shape)
    if (folder / "model.safetensors").is_file() and (folder / "result.json").is_file():
        found = read_json(folder / "result.json", f"states --model {name} --seed {seed}")
        if found.get("depends_on") == depends:
            return found
    task = training_task(settings, problem, [config.seed, seed])
    title = f"{settings.group}, {name}, seed {seed}"
    training = learn(network.to(device), task, settings.fit, folder, identity, title)
    with replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(as_safetensors(network.state_dict()))
    lengths, positions = measure(network, settings, problem, config.seed, title)
    result = {
        "model": name, "seed": seed, "depends_on": depends, "parameters": sum(p.numel() for p in network.parameters()),
        "training": training, "lengths": lengths, "positions": positions, "hardware": hardware(), "versions": versions(),
    }  # fmt: skip
    write_json(folder / "result.json", result)
    return result


def _identity(config: Config, name: str, seed: int, shape: dict[str, Any]) -> dict[str, Any]:
    """What the training of a network of that shape depends on, beside ``states.fit``."""
    settings = config.states
    return {
        "model": name, "seed": [config.seed, seed], "shape": shape, "group": settings.group, "inputs": settings.inputs,
        "train_length": settings.train_length, "first_length": settings.first_length, "grow": settings.grow,
    }  # fmt: skip


def _depends(config: Config, name: str, seed: int, shape: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on."""
    settings = config.states
    return _identity(config, name, seed, shape) | {
        "fit": settings.fit.model_dump(mode="json", exclude={"checkpoint_every"}), "validate_every": settings.validate_every,
        "lengths": list(settings.lengths), "samples": settings.samples,
    }  # fmt: skip


def build(config: Config, name: str, seed: int, problem: Group) -> tuple[nn.Module, dict[str, Any]]:
    """A new network, a function of config, name and seed, and its shape as plain values."""
    config = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": problem.order})})
    torch.manual_seed(int(np.random.SeedSequence([config.seed, seed]).generate_state(1)[0]))
    if name in config.states.baselines:
        with torch.device("meta"):
            wanted = Titans(config.model).parameter_count()
        network = Recurrent(problem.order, config.model.d_model, wanted)
        return network, {"hidden": network.recurrence.hidden_size, "width": config.model.d_model}
    shape = model_config(config, name)
    return build_model(name, shape), shape.model_dump(mode="json")


def length_at(step: int, settings: StatesConfig) -> int:
    """Letters of the words of a training step: from `StatesConfig.first_length` up to ``train_length``, each time by the same factor."""
    first = min(settings.first_length, settings.train_length)
    if settings.grow == 0:
        return settings.train_length
    grown = min(1.0, (step + 1) / (settings.grow * settings.fit.steps))
    return round(first * (settings.train_length / first) ** grown)


def training_task(settings: StatesConfig, problem: Group, seed: list[int]) -> Task:
    """Words that grow to the training length; the loss is that of all places, validation that of words of the full length."""
    letters = problem.letters(settings.inputs)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        length = length_at(step, settings)
        count = max(settings.fit.batch_size, settings.fit.batch_size * settings.train_length // (2 * length))
        words = draw_words(np.random.default_rng([*seed, TRAINING, step]), letters, count, length)
        return torch.from_numpy(words), torch.from_numpy(problem.products(words))

    def loss(network: nn.Module, drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        words, products = (x.to(next(network.parameters()).device) for x in drawn)
        logits, _ = network(words)
        right = (logits.detach().argmax(-1) == products).float()
        value = F.cross_entropy(logits.flatten(0, 1), products.flatten())
        return value, {
            "length": float(words.shape[1]),
            "accuracy": right.mean().item(),
            "last": right[:, -1].mean().item(),
        }

    held = draw_words(np.random.default_rng([*seed, VALIDATION]), letters, VALIDATED, settings.train_length)
    answers = torch.from_numpy(problem.products(held))

    def validate(network: nn.Module) -> float:
        logits = torch.cat(
            [network(part.to(next(network.parameters()).device))[0] for part in torch.from_numpy(held).split(64)]
        )
        return F.cross_entropy(logits.flatten(0, 1).double().cpu(), answers.flatten()).item()

    return Task(batch, loss, validate, settings.validate_every)


@torch.no_grad()
def measure(
    network: Callable[..., tuple[Tensor, Any]], settings: StatesConfig, problem: Group, seed: int, title: str
) -> tuple[list[dict[str, Any]], list[float]]:
    """Right answers to words of each length, the same words for every model.

    Returns
    -------
    lengths : list of dict
        Per length ``length``, ``words``, ``accuracy`` (of all places), ``last_quarter`` (of the places of the last quarter) and ``exact``: the share of
        words without a wrong answer at any place.
    positions : list of float
        The share of right answers at each place of the longest words.
    """
    found, positions = [], []
    with Progress(settings.samples * sum(settings.lengths), "letters", f"{title}, measuring") as progress:
        for length in sorted(settings.lengths):
            rng = np.random.default_rng([seed, MEASURED, length])
            words = draw_words(rng, problem.letters(settings.inputs), settings.samples, length)
            rows = max(1, BATCH_TOKENS // min(length, PIECE))
            right = np.concatenate(
                [
                    _right(network, problem, words[first : first + rows], progress)
                    for first in range(0, len(words), rows)
                ]
            )
            positions = right.mean(0)
            found.append(
                {
                    "length": length, "words": len(words), "accuracy": float(right.mean()),
                    "last_quarter": float(right[:, -max(1, length // 4) :].mean()), "exact": float(right.all(1).mean()),
                }
            )  # fmt: skip
            progress.update(0, note=f"{length} letters: {found[-1]['last_quarter']:.0%} right in the last quarter")
    return found, positions.round(4).tolist()


def _right(network: Any, problem: Group, words: np.ndarray, progress: Progress) -> np.ndarray:
    """Which answers to words (B, T) are right: (B, T) bool. Logits that are not numbers are wrong answers."""
    device = next(network.parameters()).device if isinstance(network, nn.Module) else torch.device("cpu")
    products, state, given = problem.products(words), None, []
    for part in torch.from_numpy(words).split(PIECE, dim=1):
        logits, state = network(part.to(device), state)
        answers = logits.argmax(-1).masked_fill(~logits.isfinite().all(-1), -1)
        given.append(answers.cpu().numpy())
        progress.update(part.numel())
    return np.concatenate(given, axis=1) == products


def table(config: Config, out: Path) -> dict[str, Any]:
    """Gather the results of all models and seeds of a run, and write them as ``out``/states.json.

    Returns
    -------
    dict
        ``group``, ``order``, ``inputs``, ``letters`` (how many different ones), ``train_length``, ``words`` (per length), ``seeds``, ``chance`` (of a guess: products of
        long words are all alike), and ``models``: name to ``parameters``, ``seconds`` (of training, mean), ``skipped`` (sum) and ``lengths``: per length ``length`` and, for
        ``accuracy``, ``last_quarter`` and ``exact``, the mean over seeds, ``low`` and ``high`` (the worst and the best seed).

    Raises
    ------
    FileNotFoundError
        When a model was not trained with every seed.
    ValueError
        When it was with other settings than the config's.
    """
    settings = config.states
    if settings.group is None:
        raise ValueError("states.group is not set: name a group, such as s5")
    problem = group(settings.group)
    models, found = {}, []
    for name, seeds in config.fits("states").items():
        found = []
        for seed in seeds:
            path, command = Path(out) / name / f"seed{seed}" / "result.json", f"states --model {name} --seed {seed}"
            found.append(read_json(path, command))
            with torch.device("meta"):
                _, shape = build(config, name, seed, problem)
            if found[-1].get("depends_on") != _depends(config, name, seed, shape):
                raise ValueError(
                    f"{path}: measured with other settings than the config's; run `titans-genomics {command}` again"
                )
        models[name] = {
            "parameters": found[0]["parameters"],
            "seconds": round(math.fsum(result["training"]["seconds"] for result in found) / len(found), 3),
            "skipped": sum(result["training"]["skipped"] for result in found),
            "lengths": [
                {"length": rows[0]["length"]}
                | {key: _spread([row[key] for row in rows]) for key in ("accuracy", "last_quarter", "exact")}
                for rows in zip(*(result["lengths"] for result in found), strict=True)
            ],
        }
    result = {
        "group": settings.group,
        "order": problem.order,
        "inputs": settings.inputs,
        "letters": len(problem.letters(settings.inputs)),
        "train_length": settings.train_length,
        "words": settings.samples,
        "seeds": list(settings.seeds),
        "chance": 1 / problem.order,
        "models": models,
        "hardware": found[0]["hardware"],
        "versions": found[0]["versions"],
    }
    write_json(Path(out) / "states.json", result)
    return result


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": math.fsum(values) / len(values), "low": min(values), "high": max(values)}
