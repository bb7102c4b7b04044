"""A trained model of a run as a folder that transformers loads: weights, config, tokenizer and model card."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from titans_genomics.config import TitansConfig
from titans_genomics.data.folder import TOKENIZER
from titans_genomics.data.store import TokenStore
from titans_genomics.data.vocabulary import config_path
from titans_genomics.files import read_json, write_json, write_text
from titans_genomics.hf.card import model_card
from titans_genomics.hf.configuration import TitansPretrainedConfig
from titans_genomics.hf.modeling import TitansForCausalLM
from titans_genomics.models import LanguageModel
from titans_genomics.models.state import share
from titans_genomics.training import load_model
from titans_genomics.training.export import describe_model


def export(
    run_model_folder: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    run: str | None = None,
    evaluation: str | Path | None = None,
    licence: str | None = None,
    language: str | None = None,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    push: str | None = None,
    private: bool = True,
) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load once ``titans_genomics.hf`` is imported.

    Parameters
    ----------
    run_model_folder : path
        What ``train`` left: results/RUN/train/MODEL.
    store : path
        The token store that the model was trained on; its tokenizer goes along.
    out : path
        Folder to write, whole or not at all; an earlier export there is replaced.
    run : str or None
        The run's name, for the model card; None: not said.
    evaluation : path or None
        evaluate.json, for the model card; None: that of the run, where there is one.
    licence : str or None
        Licence of the weights as the Hub writes it ("cc-by-4.0"); None: the card says that none was given.
    language : str or None
        Language of the text, ISO 639-1 ("en"), for the card.
    dtype : torch.dtype
        Of the weights on disk.
    shard_size : str
        Largest file of weights, such as "5GB".
    push : str or None
        OWNER/NAME: upload the folder to the Hugging Face Hub too; needs a token of the Hub.
    private : bool
        Whether a repository that is made for the upload is private.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no trained model or store, when the two do not belong together, when ``out`` holds something else, and
        when the upload fails.
    """
    folder, out, tokens = Path(run_model_folder), Path(out), TokenStore(store)
    description = describe_model(folder)
    if description["store"] != tokens.sha256:
        raise ValueError(
            f"{folder}: this model was trained on another token store than {tokens.path}. Give that store, or train again"
        )
    _check_out(out)
    model = as_pretrained(load_model(folder), tokens.tokenizer).to(dtype)
    metrics = Path(evaluation) if evaluation is not None else folder.parent.parent / "evaluate" / "evaluate.json"
    card = model_card(
        description,
        tokens.manifest,
        trained=_optional(folder / "train.json", "train"),
        evaluated=read_json(metrics, "evaluate") if evaluation is not None else _optional(metrics, "evaluate"),
        text=tokens.tokenizer.text,
        licence=licence,
        language=language,
        name=push or out.resolve().name,
        run=run,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    written = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        written.mkdir()
        with _no_bars():
            model.save_pretrained(written, max_shard_size=shard_size)
        _write_tokenizer(tokens.path / TOKENIZER, written)
        write_text(written / "README.md", card)
        for weights in written.glob("*.safetensors"):
            share(weights)
        if out.exists():
            shutil.rmtree(out)
        os.replace(written, out)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    if push is not None:
        upload(out, push, private)


def as_pretrained(model: LanguageModel, tokenizer: Any) -> TitansForCausalLM:
    """A language model of `models` as one of transformers, with its weights.

    The Transformer that stands beside a Titans model has a SwiGLU of a width of its own; it becomes the variant
    ``transformer`` of that width.
    """
    shape: TitansConfig = model.config
    if type(model).__name__ == "Transformer":
        hidden = model.blocks[0].feed_forward.to_output.in_features
        shape = shape.model_copy(update={"variant": "transformer", "ff_expansion": hidden / shape.d_model})
    config = TitansPretrainedConfig(
        **shape.model_dump(mode="json"),
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    )
    wrapped = TitansForCausalLM(config)
    weights = {f"model.core.{name}": w for name, w in model.state_dict().items() if name != "head.weight"}
    wrapped.load_state_dict(weights | {"lm_head.weight": model.head.weight})
    wrapped.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos, pad_token_id=tokenizer.pad
    )
    return wrapped.eval()


def upload(folder: Path, name: str, private: bool) -> None:
    """Upload an exported folder as the model ``name`` (OWNER/NAME) of the Hugging Face Hub.

    Raises ValueError when that fails, saying why; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))  # a mirror
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="titans-genomics export")
    except (HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{folder} is written, but could not be uploaded as {name} ({type(error).__name__}: {reason}). Log in with `hf auth login` "
            "and export again, or upload the folder with `hf upload`"
        ) from None


def _check_out(out: Path) -> None:
    """Raise ValueError when ``out`` is something that must not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = json.loads((out / "config.json").read_text())["model_type"] == TitansPretrainedConfig.model_type
    except (OSError, ValueError, KeyError, TypeError):
        earlier = False
    if not earlier:
        raise ValueError(f"{out}: there is something else than an exported model. Choose another folder, or remove it")


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """transformers shows no bars of its own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _optional(path: Path, command: str) -> dict[str, Any] | None:
    return read_json(path, command) if path.is_file() else None


def _write_tokenizer(source: Path, out: Path) -> None:
    """The tokenizer of a store, with what generation needs: padding on the left, and no token types."""
    shutil.copyfile(source, out / source.name)
    settings = json.loads(config_path(source).read_text())
    settings |= {"padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}
    write_json(config_path(out / source.name), settings)
