"""Training on a labelled dataset: of a whole model, of low-rank additions to it, from random weights, and of the CNN."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from titans_genomics.config import Config, TitansConfig
from titans_genomics.config_downstream import FITTED
from titans_genomics.data.folder import TOKENIZER
from titans_genomics.data.labelled import Labelled, draw, load_labelled
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import Tokenizer, digest
from titans_genomics.files import write_json
from titans_genomics.models.classifier import CNN, Classifier, Network
from titans_genomics.tasks.embeddings import file_sha256
from titans_genomics.tasks.finetune_fit import Fitting, Schedule, trained_weights
from titans_genomics.tasks.plan import for_dataset
from titans_genomics.tasks.sequences import device_of
from titans_genomics.training import build_model, check_model, load_model, model_config, with_vocabulary
from titans_genomics.training.fit import compile_kernels, precision_of
from titans_genomics.training.logs import Wandb, hardware, say

_TRIAL = re.compile(r"lr([0-9.]+(?:e-?[0-9]+)?)-batch([1-9][0-9]*)")


def fit(
    config: Config,
    store: Path,
    data_folder: Path,
    model_folder: Path | None,
    method: str,
    model: str,
    trial: str,
    seed: int,
    out: Path,
) -> dict[str, Any]:
    """Train one network on one dataset, and keep the weights of its best epoch.

    Leaves in ``out``: model.safetensors (of "lora" the additions and the head alone), fit.json (written last) and wandb/.
    Until then last.ckpt is there: a killed fit that is started again ends with the weights it would have had. A fit that is
    there with the same settings, data and weights is not repeated.

    Parameters
    ----------
    config : Config
        The run.
    store : Path
        Token store folder; the CNN needs none.
    data_folder : Path
        The prepared dataset.
    model_folder : Path or None
        Output folder of ``train`` with the model that "finetune" and "lora" begin from.
    method : "finetune", "lora", "scratch" or "cnn"
    model : str
        A name of the run's models; "none" for the CNN.
    trial : str
        Learning rate and sequences per step, such as "lr0.001-batch128".
    seed : int
        Of the validation draw, new weights, order, strands and dropout.
    out : Path
        Output folder.

    Returns
    -------
    dict
        The content of fit.json.

    Raises
    ------
    FileNotFoundError, ValueError
        The dataset or the model is missing, or belongs to another config; the trial is none; training does not stay finite.
    """
    torch.set_flush_denormal(True)  # tiny surprises would make CPU kernels many times slower
    out = Path(out)
    if method == "cnn" and model != "none":
        raise ValueError(f"method cnn does not go with the model {model!r}: it has one of its own; choose none")
    lr, batch_size = _read_trial(trial)
    data = load_labelled(Path(data_folder))
    config = for_dataset(config, data.info)
    settings = config.downstream
    train, validation, _ = draw(data, settings.protocol, settings.validation, seed)
    torch.manual_seed(seed)
    network, tokenizer, config = _new(config, store, model_folder, method, model, data, train)
    own = identity(config, store, data, model_folder, method, model, trial, seed)
    done = _done(out / "fit.json", own)
    if done is not None:
        return done
    device = device_of(config)
    tuned, cnn = settings.finetune, method == "cnn"
    schedule = Schedule(
        lr=lr,
        batch_size=batch_size,
        epochs=tuned.epochs,
        patience=tuned.patience,
        warmup=None if cnn else tuned.warmup,
        weight_decay=0.0 if cnn else tuned.weight_decay,
        betas=(0.9, 0.999) if cnn else (config.train.beta1, config.train.beta2),
        clip=None if cnn else config.train.clip,
        max_nonfinite=config.train.max_nonfinite,
        strands=settings.strands,
        seed=seed,
        bf16=not cnn and precision_of(config, "gpu" if device.type == "cuda" else "cpu") == "bf16-mixed",
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "fit.json").unlink(missing_ok=True)
    if settings.protocol == "hyenadna":
        say("protocol hyenadna: the best epoch is chosen on the test set, so its score there is optimistic")
    if device.type == "cpu" and not cnn:
        compile_kernels(network.backbone, say)  # type: ignore[arg-type]
    what = f"{data.name}: training {method} {'' if cnn else model}".rstrip()
    fitting = Fitting(network, data, train, validation, tokenizer, schedule, own, device, out, what)
    if fitting.resume():
        say(f"going on from {out / 'last.ckpt'}, after epoch {len(fitting.history)} of {schedule.epochs}")
    # in W&B the fits of a dataset are one group
    wandb = Wandb(
        config, f"{method}-{model}-{trial}-seed{seed}", out, f"{config.run}-{data.name}", job="fit", kept="fit.json"
    )
    try:
        fitting.run(wandb.log)
    finally:
        wandb.finish()
    result = {
        "dataset": data.name,
        "method": method,
        "model": model,
        "trial": trial,
        "seed": seed,
        "protocol": settings.protocol,
        "selected_on": "test" if settings.protocol == "hyenadna" else "validation",
        "metric": data.metric,
        "sequences": {"train": len(train), "validation": len(validation)},
        "best_epoch": fitting.best_epoch,
        "validation": fitting.history[fitting.best_epoch - 1]["validation"],
        "epochs": fitting.history,
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "steps": fitting.steps,
        "skipped_steps": fitting.skipped,
        "finite": fitting.skipped == 0,
        "sequences_per_second": len(train) * len(fitting.history) / fitting.trained_seconds,
        "seconds": round(fitting.seconds, 3),
        "hardware": hardware(),
        "outputs": len(data.classes),
        "length": network.length if isinstance(network, CNN) else None,
        "pretrained": os.path.relpath(model_folder, out) if model_folder is not None and method in BEGUN else None,
        "identity": own,
    }
    write_json(out / "fit.json", result)
    (out / "last.ckpt").unlink(missing_ok=True)
    return result


BEGUN = ("finetune", "lora")
"""Methods that begin from the weights of the run's training."""


def load_fitted(config: Config, store: Path, folder: Path) -> Network:
    """The network that `fit` left in ``folder``, in evaluation mode, for `sequences.predict`.

    Raises
    ------
    FileNotFoundError, ValueError
        There is none, or it was made with another config or tokenizer, or its additions belong to other weights.
    """
    folder = Path(folder)
    fitted = read_fit(folder / "fit.json")
    method, model, remedy = fitted["method"], fitted["model"], "fit it again"
    if method == "cnn":
        network: Network = CNN(fitted["length"], fitted["outputs"])
    else:
        tokens = TokenStore(store)
        shape = model_config(with_vocabulary(config, tokens), model)
        expected = _network_identity(shape, tokens)
        found = difference({key: fitted["identity"].get(key) for key in expected}, expected)
        if found:
            raise ValueError(f"{folder}: was fitted with another config ({found}); {remedy}")
        if method == "lora":
            base = folder / fitted["pretrained"]
            backbone = load_model(base)
            if file_sha256(base / "model.safetensors") != fitted["identity"]["pretrained"]:
                raise ValueError(f"{base}: has other weights than when the additions in {folder} were fitted; {remedy}")
        else:
            backbone = build_model(model, shape)
        network = Classifier(backbone, fitted["outputs"], fitted["identity"]["pooling"])
        if method == "lora":
            _add_low_rank(network, fitted["identity"]["finetune.lora_rank"], fitted["identity"]["finetune.lora_alpha"])
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
        if set(tensors) != set(trained_weights(network)):
            raise RuntimeError("other tensors than those of the network")
        network.load_state_dict(tensors, strict=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{weights}: does not exist; {remedy}") from None
    except (RuntimeError, SafetensorError) as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(f"{weights}: does not hold the network of fit.json beside it ({first}); {remedy}") from None
    return network.eval()


def _new(
    config: Config,
    store: Path,
    model_folder: Path | None,
    method: str,
    model: str,
    data: Labelled,
    train: np.ndarray,
) -> tuple[Network, Tokenizer | None, Config]:
    """The network as it is before training, its tokenizer, and the config with the vocabulary of that."""
    if method not in FITTED:
        raise ValueError(f"method {method!r} trains no network; those that do are {', '.join(FITTED)}")
    outputs, tokenizer = len(data.classes), None
    if method == "cnn":
        network: Network = CNN(int(data.lengths[train].max()), outputs)
    else:
        tokens = TokenStore(store)
        tokenizer = tokens.tokenizer
        if tokenizer.text:
            raise ValueError(
                f"{store}: data.tokenizer.kind byte reads text, the sequences of {data.name} are nucleotides; use a run with "
                "another tokenizer"
            )
        config = with_vocabulary(config, tokens)
        shape = model_config(config, model)
        if method == "scratch":
            backbone = build_model(model, shape)
        else:
            if model_folder is None:
                raise ValueError(f"method {method} begins from a trained model: name its folder")
            found = check_model(config, tokens, Path(model_folder))["name"]
            if found != model:
                raise ValueError(f"{model_folder}: holds the model {found!r}, not {model!r}; train {model} first")
            backbone = load_model(model_folder)
        backbone.checkpoint_activations = config.train.checkpoint
        settings = config.downstream
        network = Classifier(backbone, outputs, settings.pooling, settings.finetune.dropout)
        if method == "lora":
            _add_low_rank(network, settings.finetune.lora_rank, settings.finetune.lora_alpha)
    if data.task == "regression":
        network.standardise(torch.from_numpy(data.targets[train]))
    return network, tokenizer, config


def _add_low_rank(network: Classifier, rank: int, alpha: float) -> None:
    try:
        from titans_genomics.models.lora import add_low_rank
    except ImportError as error:
        raise ValueError(f"method lora needs the package peft ({error}): pip install peft") from None
    add_low_rank(network.backbone, rank, alpha)


def _read_trial(trial: str) -> tuple[float, int]:
    """Learning rate and sequences per step of "lr0.001-batch128"."""
    found = _TRIAL.fullmatch(trial)
    if found is None or not 0 < float(found[1]) <= 1:
        raise ValueError(f"trial {trial!r}: expected a learning rate and a batch size, such as lr0.001-batch128")
    return float(found[1]), int(found[2])


def identity(
    config: Config,
    store: Path,
    data: Labelled,
    model_folder: Path | None,
    method: str,
    model: str,
    trial: str,
    seed: int,
) -> dict[str, Any]:
    """Everything that the weights depend on, as plain values: a fit goes on, or is taken as done, where all of it is the same."""
    settings = config.downstream
    content = hashlib.sha256()
    for part in (data.codes, data.offsets, data.targets, data.split, data.groups):
        if part is not None:
            content.update(np.ascontiguousarray(part))
    found = {
        "method": method,
        "model": model,
        "trial": trial,
        "seed": seed,
        "data": content.hexdigest(),
        "task": data.task,
        "metric": data.metric,
        "protocol": settings.protocol,
        "validation": settings.validation,
        **tuning(config, method),
    }
    if method != "cnn":
        tokens = TokenStore(store)
        train = config.train.model_dump(mode="json", include={"beta1", "beta2", "clip", "precision"})
        found |= {f"train.{key}": value for key, value in train.items()}
        found |= {"pooling": settings.pooling, "strands": settings.strands}
        found |= _network_identity(model_config(with_vocabulary(config, tokens), model), tokens)
    if method in BEGUN:
        assert model_folder is not None
        found["pretrained"] = file_sha256(Path(model_folder) / "model.safetensors")
    return json.loads(json.dumps(found))


def tuning(config: Config, method: str) -> dict[str, Any]:
    """What a method takes from the section ``downstream.finetune``, trials aside, by dotted key."""
    found = config.downstream.finetune.model_dump(mode="json", exclude={"lr", "batch_size"})
    if method == "cnn":
        found = {key: found[key] for key in ("epochs", "patience")}
    elif method != "lora":
        found = {key: value for key, value in found.items() if not key.startswith("lora_")}
    return {f"finetune.{key}": value for key, value in found.items()}


def _network_identity(shape: TitansConfig, tokens: TokenStore) -> dict[str, Any]:
    """The shape of a network by dotted key, and a digest of what its tokens stand for."""
    described = tokens.tokenizer.settings | {"vocabulary": tokens.manifest["vocabulary"]}
    sha256 = digest((tokens.path / TOKENIZER).read_bytes(), described)
    return {f"model.{key}": value for key, value in shape.model_dump(mode="json").items()} | {"tokenizer": sha256}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first key whose value is not the expected one, in words; None where all are."""
    for key in {**expected, **found}:
        there, now = found.get(key), expected.get(key)
        if there != now:
            return f"{key} is {there!r} there and {now!r} now"
    return None


def _done(path: Path, own: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found = read_fit(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if found["identity"] == own and path.with_name("model.safetensors").is_file() else None


def read_fit(path: Path) -> dict[str, Any]:
    """A fit.json. Raises FileNotFoundError, or ValueError when it is damaged."""
    try:
        content = json.loads(path.read_text())
        if "identity" not in content:
            raise ValueError("its settings are missing")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no fit here; run `titans-genomics downstream fit` first") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the description of a fit ({error}); fit it again") from None
    return content
