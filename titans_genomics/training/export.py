"""Models on disk: build one from a config, write it as safetensors with its description, read it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as load_safetensors
from safetensors.torch import save_model as save_safetensors
from torch import nn

from titans_genomics import __version__
from titans_genomics.config import Config, SourceConfig, TitansConfig, check_vocabulary
from titans_genomics.data.store import TokenStore
from titans_genomics.files import replacing, write_json
from titans_genomics.models import Titans, Transformer, with_parameters
from titans_genomics.models.state import share

CLASSES = ("titans", "transformer")


def model_config(config: Config, name: str) -> TitansConfig:
    """The shape of a run's model by name.

    "titans" is the section ``model``; "transformer" attends over the whole training context; any other is that of
    ``compare``, with as many parameters as "titans" where ``train.equal_parameters`` says so.

    Raises ValueError for a name that the config has not, and when the parameters cannot be made equal.
    """
    if name == "titans":
        return config.model
    if name == "transformer":
        return config.model.model_copy(update={"window": config.train.context})
    if name not in config.compare:
        raise ValueError(f"model {name!r} is not one of this run's: {', '.join(config.models)}")
    changed = TitansConfig.model_validate(config.model.model_dump() | config.compare[name])
    if not config.train.equal_parameters or "ff_expansion" in config.compare[name]:
        return changed
    with torch.device("meta"):
        wanted = Titans(config.model).parameter_count()
    try:
        return with_parameters(changed, wanted)
    except ValueError as error:
        raise ValueError(
            f"compare.{name}: {error}. Raise model.ff_expansion, or set train.equal_parameters to false"
        ) from None


def with_vocabulary(config: Config, store: TokenStore) -> Config:
    """The config with the vocabulary of a store's tokenizer.

    Raises ValueError when ``model.vocab_size`` asks for another one than that, or than the default; and when the store was
    made with other settings than the config's ``data``, the places of files aside.
    """
    made, asked = _settings(store.manifest["config"]["data"]), _settings(config.data.model_dump(mode="json"))
    differing = sorted(key for key in {*made, *asked} if made.get(key) != asked.get(key))
    if differing:
        shown = "; ".join(
            f"{key} is {made.get(key)!r} there and {asked.get(key)!r} in the config" for key in differing[:3]
        )
        raise ValueError(
            f"{store.path}: this token store was made with other settings ({shown}). Run `titans-genomics tokenize` again"
        )
    size = store.tokenizer.vocab_size
    check_vocabulary(config, str(store.path), size)
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": size})})


def _settings(data: dict[str, Any]) -> dict[str, Any]:
    """What a token store depends on by dotted key; where files are is left out."""
    data = {key: value for key, value in data.items() if key != "downloads"}
    data["tokenizer"] = {key: value for key, value in data["tokenizer"].items() if key != "path"}
    data["sources"] = {  # by name, whether that was given or taken from the file
        SourceConfig.model_validate(source).label: {key: source[key] for key in ("species", "weight", "split")}
        for source in data["sources"]
    }

    def flat(key: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for name, inner in value.items() for k, v in flat(f"{key}.{name}", inner).items()}
        return {key: value}

    return flat("data", data)


def build_model(name: str, config: TitansConfig) -> Any:
    """A new model with fresh weights; every name but "transformer" is that of a Titans model."""
    return Transformer(config) if name == "transformer" else Titans(config)


def save_model(folder: Path, name: str, config: TitansConfig, model: nn.Module, store: TokenStore, step: int) -> None:
    """Write model.safetensors (weights) and model.json (what they are)."""
    with replacing(folder / "model.safetensors") as temporary:
        save_safetensors(model, str(temporary))
        share(temporary)
    description = {
        "name": name,
        "class": "transformer" if name == "transformer" else "titans",
        "config": config.model_dump(mode="json"),
        "vocabulary": store.manifest["vocabulary"],
        "store": store.sha256,
        "step": step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "version": __version__,
    }
    write_json(folder / "model.json", description)


def describe_model(folder: Path) -> dict[str, Any]:
    """The model.json of a trained model.

    Raises
    ------
    FileNotFoundError, ValueError
        When ``folder`` holds no trained model, or its description cannot be read.
    """
    path = Path(folder) / "model.json"
    if not path.is_file() or not path.with_name("model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder}: no trained model (model.json and model.safetensors) in this folder; run `titans-genomics train` first"
        )
    try:
        description = json.loads(path.read_text())
        TitansConfig.model_validate(description["config"])
        if description["class"] not in CLASSES:
            raise ValueError(f"class {description['class']!r} is not one of {', '.join(CLASSES)}")
        description.setdefault("name", description["class"])  # of version 0.1
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the description of a model ({error}); train the model again") from None
    return description


def check_model(config: Config, store: TokenStore, folder: Path) -> dict[str, Any]:
    """The description of a trained model, after making sure that it is the one that a config and a token store speak of.

    Raises
    ------
    FileNotFoundError, ValueError
        As `describe_model`; and when the model has another shape than the config says, or was trained on another store.
    """
    description = describe_model(folder)
    if description["name"] not in config.models:
        raise ValueError(
            f"{folder}: holds the model {description['name']!r}, which the config has not; it has {', '.join(config.models)}"
        )
    expected = model_config(config, description["name"]).model_dump(mode="json")
    found = description["config"]
    differing = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    if differing:
        shown = "; ".join(
            f"model.{key} is {found.get(key)!r} there and {expected.get(key)!r} in the config" for key in differing
        )
        raise ValueError(f"{folder}: this model comes from another config ({shown}). Train again, or use its config")
    if description["store"] != store.sha256:
        raise ValueError(
            f"{folder}: this model was trained on another token store than {store.path}, so it may have seen the held-out "
            "bases. Train again"
        )
    return description


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Any:
    """A trained model, in evaluation mode.

    Parameters
    ----------
    folder : path
        The output folder of ``train`` (model.safetensors and model.json).
    device : str or torch.device
        Where to put it.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no model, or its weights do not belong to its description.
    """
    folder = Path(folder)
    description = describe_model(folder)
    model = build_model(description["class"], TitansConfig.model_validate(description["config"]))
    weights = folder / "model.safetensors"
    try:
        load_safetensors(model, str(weights))
    except (RuntimeError, SafetensorError) as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{weights}: does not hold the model of {folder / 'model.json'} ({first}); train the model again"
        ) from None
    return model.to(device).eval()
