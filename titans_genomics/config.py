"""The one schema of a run: every key of the YAML, its unit, its range and its default.

A config has one section per stage (``data``, ``model``, ``train``, ``evaluate``, ``species``, ``downstream``, ``needle``,
``variants``, ``lm_eval``, ``niah``, ``states``, ``forecast``, ``report``, ``use``). Unknown keys are errors. This module imports no torch, so that the Snakefile and
``--help`` stay quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from titans_genomics.config_data import (
    TEXT_KINDS,
    DataConfig,
    Fraction,
    LeaksConfig,
    Name,
    ReadsConfig,
    Section,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
    check_kinds,
)
from titans_genomics.config_downstream import (
    DatasetConfig,
    DownstreamConfig,
    FinetuneConfig,
    HubConfig,
    NeedleConfig,
    SpeciesClass,
    SpeciesConfig,
    VariantsConfig,
    VariantSetConfig,
)
from titans_genomics.config_tasks import ForecastConfig, LearnConfig, LmEvalConfig, NiahConfig, StatesConfig
from titans_genomics.config_use import USES, UseConfig
from titans_genomics.suites import SUITES, find

__all__ = [
    "STAGES", "TEXT_KINDS", "Config", "DataConfig", "DatasetConfig", "DownstreamConfig", "EvaluateConfig", "FinetuneConfig",
    "ForecastConfig", "HubConfig", "LeaksConfig", "LearnConfig", "LmEvalConfig", "NeedleConfig", "NiahConfig", "ReadsConfig",
    "ReportConfig", "SourceConfig", "SpeciesClass", "SpeciesConfig", "SplitConfig", "StatesConfig", "TitansConfig", "TokenizerConfig", "TrainConfig", "UseConfig", "VariantSetConfig", "VariantsConfig", "WandbConfig",
    "check_kinds", "check_run", "check_vocabulary", "load_config", "parse_config", "stage_settings",
]  # fmt: skip


# --------------------------------------------------------------------------------------------- model


class TitansConfig(Section):
    """A Titans model (arXiv 2501.00663), or the Transformer of the same shape that stands beside it.

    Letters in brackets are those of the paper and of docs/model.md.
    """

    variant: Literal["lmm", "mac", "mag", "mal", "transformer", "gated_deltanet", "diagonal"] = Field(
        "lmm",
        description="memory alone, memory as context, as gate, as layer; baselines: attention over the last `window` tokens, a linear memory with the gated delta rule, a diagonal linear recurrence",
    )
    vocab_size: int = Field(
        8,
        ge=2,
        description="tokens in the vocabulary; that of data.tokenizer takes the place of the default, which is that of nucleotides",
    )
    d_model: int = Field(128, ge=1, description="model width D")
    n_layers: int = Field(2, ge=1, description="blocks")
    n_heads: int = Field(2, ge=1, description="heads H; D must be a multiple of it")
    memory_layers: int = Field(2, ge=1, le=8, description="layers L of each memory MLP; 1 is the linear memory")
    memory_expansion: float = Field(2.0, gt=0, description="hidden width of the memory in units of the head width (e)")
    chunk: int = Field(64, ge=1, description="tokens whose inner gradients are taken at the same weights (b)")
    segment: int = Field(256, ge=1, description="MAC: tokens of a segment (C), a multiple of chunk")
    window: int = Field(
        256,
        ge=1,
        description="MAG, MAL, Transformer: tokens of the sliding attention window (w), the own token included",
    )
    persistent: int = Field(4, ge=0, description="MAC, MAG, MAL: persistent tokens (P); 0 switches them off")
    conv: int = Field(
        8,
        ge=0,
        description="kernel of the causal depthwise convolution after the q, k, v projections, tokens; 0 switches it off (the paper has 4; DNA gains from 8, docs/model.md)",
    )
    momentum: bool = Field(True, description="surprise decay eta (eq. 10); false: eta = 0")
    forgetting: bool = Field(True, description="forgetting alpha (eq. 13); false: alpha = 0")
    bound_values: bool = Field(
        True,
        description="values longer than 1 are shortened to length 1, which keeps the inner descent stable; false: values as they are, as in the paper",
    )
    theta_max: float | None = Field(
        None,
        gt=0,
        description="largest inner step; null: a step that is safe for the chunk and the layers (docs/model.md)",
    )
    ff_expansion: float = Field(2.0, gt=0, description="hidden width of the SwiGLU in units of D")

    @model_validator(mode="after")
    def _shapes_fit(self) -> TitansConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.variant in ("mac", "mag", "mal", "transformer") and (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"the head width d_model / n_heads = {self.d_model // self.n_heads} must be even for rotary positions"
            )
        if self.variant == "mac" and self.segment % self.chunk:
            raise ValueError(f"segment {self.segment} is not a multiple of chunk {self.chunk}")
        return self


# --------------------------------------------------------------------------------------------- train


class WandbConfig(Section):
    """Weights & Biases logging. CSV logs are always written beside it."""

    mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="offline writes a run folder that `wandb sync` can send later"
    )
    project: str = Field("titans-genomics", min_length=1, description="W&B project")
    entity: str | None = Field(None, description="W&B user or team")
    tags: tuple[str, ...] = Field((), description="W&B tags")


class TrainConfig(Section):
    """Next-token training."""

    context: int = Field(1024, ge=2, description="window length, tokens")
    batch_size: int = Field(8, ge=1, description="windows per device and step")
    carry: int = Field(
        1,
        ge=1,
        description="windows that follow one another on the genome with the memory carried from one optimiser step to the next (its gradients are not); 1: every window begins with an empty memory",
    )
    piece: int | None = Field(
        None,
        ge=1,
        description="read the context in pieces of this many tokens, the memory carried on, gradients cut between them: memory use is that of a piece; null: in one piece",
    )
    checkpoint: bool = Field(
        False,
        description="keep only the input of each block for the backward pass and compute the rest again: less memory, more time",
    )
    accumulate: int = Field(1, ge=1, description="batches whose gradients are added up before an optimiser step")
    max_steps: int = Field(500, ge=1, description="optimiser steps")
    lr: float = Field(5e-3, gt=0, description="peak learning rate of AdamW")
    min_lr: Fraction = Field(0.1, description="final learning rate as a share of the peak (cosine)")
    warmup: int = Field(20, ge=0, description="linear warm-up, optimiser steps")
    weight_decay: float = Field(
        0.1, ge=0, description="AdamW decay of matrices (not of norms, biases, gates, embeddings, persistent tokens)"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW beta 1")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW beta 2")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="auto: bf16-mixed on a GPU that has it, else 32-true"
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="where to train")
    devices: int = Field(1, ge=1, description="devices per node")
    num_nodes: int = Field(1, ge=1, description="nodes")
    strategy: Literal["auto", "ddp", "fsdp"] = Field("auto", description="how several devices share the work")
    reverse_complement: Fraction | None = Field(
        None,
        description="probability that a training window is reverse-complemented; null: 0.5 for bases, 0 for text, which has no other strand",
    )
    sampling: Literal["random", "tiled"] = Field(
        "random",
        description="windows at random places, by weight; or tiled: all windows side by side once per epoch, in a random order",
    )
    temperature: float = Field(
        1.0,
        ge=1,
        description="sources are drawn in proportion to weight x bases^(1/temperature): above 1 small sources are seen more often",
    )
    documents: Literal["join", "reset"] = Field(
        "join",
        description="what a window does at the end of a contig stretch or read: read on behind the EOS token, or begin anew with an empty memory and no attention across",
    )
    soft_mask_weight: Fraction = Field(
        1.0, description="weight of soft-masked (lower-case) bases in the loss; needs data.soft_mask keep"
    )
    validate_every: int = Field(100, ge=1, description="optimiser steps between validations")
    validation_windows: int = Field(64, ge=1, description="validation windows, spread evenly over the validation split")
    checkpoint_every: int = Field(100, ge=1, description="optimiser steps between `last` checkpoints")
    watch: bool = Field(
        False,
        description="debugging: stop where a memory first becomes NaN or infinite and name layer, head and token, instead of skipping the step",
    )
    max_nonfinite: int = Field(
        10, ge=1, description="non-finite steps in a row (each is skipped and counted) after which training stops"
    )
    transformer: bool = Field(False, description="also train a Transformer of the same size on the same windows")
    equal_parameters: bool = Field(
        True,
        description="the SwiGLU of the models of compare is made wider or narrower, so that all have as many parameters as model",
    )
    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases")

    @model_validator(mode="after")
    def _pieces_fit(self) -> TrainConfig:
        if self.piece is not None and self.strategy == "fsdp":
            raise ValueError(
                "train.piece (truncated back-propagation) does not go with strategy fsdp: use ddp, or train.checkpoint"
            )
        if self.documents == "reset" and (self.carry > 1 or self.piece is not None):
            raise ValueError(
                "train.documents reset begins anew within windows: it does not go with train.carry or train.piece"
            )
        return self

    def turned(self, text: bool) -> float:
        """The probability that a window is reverse-complemented, of text or bases. Raises ValueError when that is asked of text."""
        if text and self.reverse_complement:
            raise ValueError(
                f"train.reverse_complement is {self.reverse_complement}, and text has no other strand: set it to 0, or leave it out"
            )
        return 0.0 if text else 0.5 if self.reverse_complement is None else self.reverse_complement


# ------------------------------------------------------------------------------------------ evaluate


class EvaluateConfig(Section):
    """Held-out bits per base."""

    split: Literal["validation", "test"] = Field("test", description="which held-out split is measured")
    piece: int = Field(
        4096, ge=1, description="tokens read at a time while streaming; changes speed and memory, not the result"
    )
    stretch: int | None = Field(
        None,
        ge=16,
        description="tokens after which the memory begins anew while the held-out sequence is read; null: what training showed it (train.context x train.carry). One reading without end is measured beside it",
    )
    max_bases: int | None = Field(
        None, ge=1000, description="measure at most this many held-out bases per source; null: all"
    )
    context: int = Field(8192, ge=16, description="longest context of the plot of loss by position, tokens")
    markov: tuple[int, ...] = Field(
        tuple(range(1, 13)),
        min_length=1,
        description="orders of the Markov baseline; the best on validation is measured",
    )

    @field_validator("markov")
    @classmethod
    def _orders(cls, orders: tuple[int, ...]) -> tuple[int, ...]:
        if min(orders) < 0 or max(orders) > 12:
            raise ValueError("orders of the Markov model must be from 0 to 12")
        return orders


class ReportConfig(Section):
    """The HTML report."""

    title: str | None = Field(None, description="title; default: the run's name")


# ----------------------------------------------------------------------------------------------- run


class Config(Section):
    """A whole run."""

    run: Name = Field(description="the run's name; everything is written to results/RUN/")
    seed: int = Field(1, ge=0, lt=2**32, description="seed of splits, windows, initial weights and augmentation")
    results: Path = Field(Path("results"), description="folder of all results")
    data: DataConfig | None = Field(
        None, description="sequence files or text to tokens; left out by runs of nothing but states and forecast"
    )
    model: TitansConfig = Field(default_factory=TitansConfig)
    compare: dict[Name, dict[str, Any]] = Field(
        {},
        description="further models, trained and measured on the same: a name, and the keys of model that are different, such as mac: {variant: mac}",
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    species: SpeciesConfig = Field(default_factory=SpeciesConfig)
    downstream: DownstreamConfig = Field(default_factory=DownstreamConfig)
    needle: NeedleConfig = Field(default_factory=NeedleConfig)
    variants: VariantsConfig = Field(default_factory=VariantsConfig)
    lm_eval: LmEvalConfig = Field(default_factory=LmEvalConfig)
    niah: NiahConfig = Field(default_factory=NiahConfig)
    states: StatesConfig = Field(default_factory=StatesConfig)
    forecast: ForecastConfig = Field(default_factory=ForecastConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    use: UseConfig = Field(default_factory=UseConfig)

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        if self.data is None:
            self._check_without_data()
            return self
        names = {s.label for s in self.data.sources}
        for key, source in [("species.classes", entry.source) for entry in self.species.classes] + [
            ("needle", self.needle.source)
        ]:
            if source is not None and source not in names:
                raise ValueError(f"{key}: source {source!r} is not one of data.sources ({', '.join(sorted(names))})")
        if self.train.soft_mask_weight < 1 and (
            self.data.soft_mask != "keep" or self.data.tokenizer.kind != "nucleotide"
        ):
            raise ValueError(
                "train.soft_mask_weight below 1 needs data.soft_mask keep and data.tokenizer.kind nucleotide"
            )
        self.train.turned(self.data.tokenizer.kind == "byte" or any(s.kind in TEXT_KINDS for s in self.data.sources))
        if self.use.samples and self.use.model is None and self.data.tokenizer.kind == "byte":
            raise ValueError("use.samples: genomes need a model of bases; data.tokenizer.kind byte reads text")
        if all(s.weight == 0 for s in self.data.sources):
            raise ValueError("data.sources: every weight is 0, nothing would be trained on")
        return self

    @model_validator(mode="after")
    def _models_agree(self) -> Config:
        for name, changes in self.compare.items():
            if name in RESERVED:
                raise ValueError(f"compare.{name}: this name is taken; choose another than {', '.join(RESERVED)}")
            strange = sorted(set(changes) - set(TitansConfig.model_fields))
            if strange:
                known = ", ".join(sorted(TitansConfig.model_fields))
                raise ValueError(f"compare.{name}.{strange[0]}: unknown key; known here: {known}")
            if "vocab_size" in changes:
                raise ValueError(f"compare.{name}.vocab_size: all models of a run read the same tokens; leave it out")
            try:
                TitansConfig.model_validate(self.model.model_dump() | changes)
            except ValidationError as error:
                fault = error.errors()[0]
                key = ".".join(map(str, ("compare", name, *fault["loc"])))
                raise ValueError(f"{key}: {fault['msg'].removeprefix('Value error, ')}") from None
        for name in self.downstream.models or ():
            if name not in self.models:
                raise ValueError(f"downstream.models: {name!r} is not a model of this run ({', '.join(self.models)})")
        if self.use.model is None and self.use.name not in self.models:
            raise ValueError(f"use.name: {self.use.name!r} is not a model of this run ({', '.join(self.models)})")
        for entry in self.downstream.hub:
            if entry.name in self.models:
                raise ValueError(
                    f"downstream.hub: the name {entry.name!r} is that of a model of this run; choose another"
                )
        for name in self.downstream.suites:
            find(name)
        official = {dataset.name for suite in SUITES.values() for dataset in suite.datasets}
        for dataset in self.downstream.datasets:
            if dataset.key in TARGETS:
                raise ValueError(
                    f"downstream.datasets: {dataset.path}: {dataset.key!r} is the name of a stage of the workflow; give the dataset a `name`"
                )
            if dataset.key in official | set(SUITES):
                raise ValueError(
                    f"downstream.datasets: the name {dataset.key!r} is that of a benchmark; give the dataset another `name`, or list it "
                    "under downstream.suites"
                )
        asked = {
            "downstream": self.downstream.datasets or self.downstream.suites,
            "needle": self.needle.lengths,
            "variants": self.variants.sets,
            "species": self.species.classes,
        }
        for section, there in asked.items():
            if there and self.data is not None and self.data.tokenizer.kind == "byte":
                raise ValueError(f"{section}: sequences need a model of bases; data.tokenizer.kind byte reads text")
        return self

    def _check_without_data(self) -> None:
        """Raise ValueError unless everything that is asked for can do without tokens."""
        if not self.tasks and self.use.model is None:
            raise ValueError(
                "data: missing; list sequence files or text under data.sources, or ask for states.group, forecast.path or use.model, which need none"
            )
        asked = {
            "train.transformer": self.train.transformer,
            "species.classes": self.species.classes,
            "downstream": self.downstream.datasets or self.downstream.suites,
            "needle.lengths": self.needle.lengths,
            "variants.sets": self.variants.sets,
            "lm_eval.tasks": self.lm_eval.tasks,
            "niah": self.niah.asked,
            "use.samples": self.use.samples and self.use.model is None,
        }
        for key, there in asked.items():
            if there:
                raise ValueError(f"{key}: needs the section data, which is missing")

    @property
    def folder(self) -> Path:
        """``results/RUN``, the folder of everything this run writes."""
        return self.results / self.run

    @property
    def tasks(self) -> list[str]:
        """The tasks that models are trained on directly, without tokens of ``data``."""
        return [name for name, asked in (("states", self.states.group), ("forecast", self.forecast.path)) if asked]

    def fits(self, task: str) -> dict[str, tuple[int, ...]]:
        """What is trained and measured of a task of `tasks`: models and baselines by name, each with its seeds."""
        section = getattr(self, task)
        names = [*self.models, *section.baselines]
        return {name: section.seeds[:1] if name == "last" else section.seeds for name in names}  # last draws nothing

    @property
    def trained(self) -> bool:
        """Whether models are trained on the next token: where there are tokens, unless nothing but needles for new weights is asked for."""
        others = (
            self.species.classes, self.downstream.datasets, self.downstream.suites, self.needle.lengths, self.variants.sets,
            self.lm_eval.tasks,
        )  # fmt: skip
        return self.data is not None and not (self.niah.asked and self.niah.start == "fresh" and not any(others))

    @property
    def only_used(self) -> bool:
        """Whether the run does nothing but use another run's model."""
        return self.data is None and not self.tasks

    @property
    def ablated(self) -> bool:
        """Whether the run has several models of the same tokens, to stand in one table."""
        return bool(self.compare) and self.trained

    @property
    def models(self) -> list[str]:
        """The names of the models that are trained: "titans" is the section ``model``."""
        return ["titans", *(["transformer"] if self.train.transformer else []), *self.compare]

    @property
    def datasets(self) -> list[str]:
        """The names of the labelled datasets of this run: those of suites, then one's own."""
        official = [dataset.name for name in self.downstream.suites for dataset in find(name)]
        return list(dict.fromkeys(official)) + [dataset.key for dataset in self.downstream.datasets]

    def files(self) -> list[tuple[str, Path]]:
        """Every file that the run reads and that must be there, with the key that names it; downloads are not."""
        found = self.use.files()
        if self.forecast.path is not None and self.forecast.url is None:
            found.append(("forecast.path", self.forecast.path))
        if self.niah.haystack is not None:
            found.append(("niah.haystack", self.niah.haystack))
        if self.niah.babilong is not None:
            found += [(f"niah.babilong.files.{i}", path) for i, path in enumerate(self.niah.babilong.files)]
        if self.data is None:
            return found
        for i, source in enumerate(self.data.sources):
            if source.url is None:
                found.append((f"data.sources.{i}.path", source.path))
            for key in ("reference", "regions", "exclude"):
                path = getattr(source, key)
                if path is not None:
                    found.append((f"data.sources.{i}.{key}", path))
        if self.data.tokenizer.path is not None:
            found.append(("data.tokenizer.path", self.data.tokenizer.path))
        found += [(f"species.classes.{i}.path", s.path) for i, s in enumerate(self.species.classes) if s.path]
        for i, dataset in enumerate(self.downstream.datasets):
            found.append((f"downstream.datasets.{i}.path", dataset.path))
            if dataset.test is not None:
                found.append((f"downstream.datasets.{i}.test", dataset.test))
        return found + [(f"variants.sets.{i}.path", entry.path) for i, entry in enumerate(self.variants.sets)]


TARGETS = (
    "all", "settings", "fetch", "tokenize", "inspect", "train", "evaluate", "species", "needle", "variants", "prepare", "fit",
    "score", "table", "downstream", "ablations", "lm_eval", "niah_model", "niah", "learn", "learned", "report",
    "score_sample", "evaluate_sample", "saturate_sample", "track_sample", "embed_sample", "memorize_sample", *USES, "generate", "use",
)  # fmt: skip
"""The rules of the workflow; a dataset's name is one too."""

RESERVED = (
    "titans",
    "transformer",
    "markov",
    "uniform",
    "transitions",
    "none",
    "kmer",
    "cnn",
    "lstm",
    "last",
    "dlinear",
)
"""Names that a model of ``compare`` cannot have."""

_ALWAYS = {"run", "seed", "results", "data"}
_MODELS = _ALWAYS | {"model", "compare", "train"}
_LEARNED = _MODELS - {"data"}
STAGES: dict[str, set[str]] = {
    "tokenize": _ALWAYS,
    "train": _MODELS,
    "evaluate": _MODELS | {"evaluate"},
    "species": _MODELS | {"species"},
    "prepare": _ALWAYS | {"downstream"},
    "fit": _MODELS | {"downstream"},
    "score": _MODELS | {"downstream"},
    "table": _MODELS | {"downstream"},
    "needle": _MODELS | {"needle"},
    "variants": _MODELS | {"variants"},
    "lm_eval": _MODELS | {"lm_eval"},
    "niah": _MODELS | {"niah"},
    "states": _LEARNED | {"states"},
    "forecast": _LEARNED | {"forecast"},
    "report": set(Config.model_fields),
}
"""The sections that each stage depends on; a change in any other section leaves its results as they are."""

_ROWS = {"methods", "models", "hub"}
_UNUSED = {
    "prepare": _ROWS | {"pooling", "strands", "finetune", "kmer", "neighbours", "bootstrap", "seeds"},
    "fit": _ROWS | {"kmer", "neighbours", "bootstrap", "seeds"},
    "score": {"methods", "models"},
    "table": set(),
}
"""Keys of ``downstream`` that a stage does not depend on, or is told on its command line."""


def check_run(config: Config) -> None:
    """What a whole run needs beyond a valid config, found out before its first stage.

    Raises FileNotFoundError for an absent sequence file, ValueError for a held-out split of share 0 that a stage needs, and for another
    vocabulary in the section model than that of the tokenizer, where it is known.
    """
    for key, path in config.files():
        folder_too = key.startswith("downstream.datasets.") and key.endswith(".path")
        if not (path.is_file() or (folder_too and path.is_dir())):
            raise FileNotFoundError(f"{key}: {path} does not exist; paths are relative to {Path.cwd()}")
    if config.use.model is not None:
        weights = config.use.model / "train" / config.use.name / "model.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(
                f"use.model: {weights} does not exist; name the folder of a trained run, such as results/default, and under use.name one of its models"
            )
    if config.data is None:
        return
    needed = {"validation": "train", config.evaluate.split: "evaluate"}
    if any(entry.source for entry in config.species.classes):
        needed["test"] = "species"
    if config.needle.lengths:
        needed["test"] = "needle"
    if config.niah.asked and config.niah.haystack is None:
        needed["test"] = "niah"
    for split, stage in needed.items():
        if not getattr(config.data.split, split) and all(s.split != split for s in config.data.sources):
            raise ValueError(
                f"data.split.{split} is 0, and the {stage} stage needs that split: raise it, such as to 0.05"
            )
    tokenizer = config.data.tokenizer
    if tokenizer.kind == "byte":
        check_vocabulary(config, "data.tokenizer.kind byte", 256 + 3)  # bytes and special tokens
    elif tokenizer.kind == "bpe" and tokenizer.path is None and tokenizer.vocab_size > config.model.vocab_size:
        check_vocabulary(config, "data.tokenizer.vocab_size", tokenizer.vocab_size)


def check_vocabulary(config: Config, key: str, size: int) -> None:
    """Raise ValueError when ``model.vocab_size`` asks for another vocabulary than the ``size`` tokens of ``key``, or than the default."""
    wanted = config.model.vocab_size
    if wanted not in (size, TitansConfig.model_fields["vocab_size"].default):
        raise ValueError(f"model.vocab_size is {wanted}, the tokens of {key} are {size:,}. Leave it out of the config")


def stage_settings(config: Config, stage: str, *parts: str) -> dict[str, Any]:
    """The part of ``config`` that ``stage`` depends on: a valid config by itself, as plain JSON values.

    ``parts``: of train the model, of prepare and table the dataset, of fit and score both; what concerns only others is left out.
    """
    settings = config.model_dump(mode="json", include=STAGES[stage])
    model = parts[0] if parts and stage in ("niah", "states", "forecast") else None
    if stage in ("states", "forecast"):  # the rest of the section is about tokens
        settings["train"] = {key: settings["train"][key] for key in ("accelerator", "equal_parameters")}
    if model is not None:
        settings["compare"] = {name: changes for name, changes in settings["compare"].items() if name == model}
        if stage == "niah":
            settings["niah"]["fits"] = {name: fit for name, fit in settings["niah"]["fits"].items() if name == model}
    model = parts[-1] if parts and stage in ("train", "fit", "score") else None
    if model is not None:
        settings["train"]["transformer"] = model == "transformer"
        settings["compare"] = {name: changes for name, changes in settings["compare"].items() if name == model}
        if (
            model != "transformer" and model not in config.models
        ):  # none, or a model of the Hub: nothing of ours is read
            del settings["model"]
            settings["train"] = {key: settings["train"][key] for key in ("accelerator", "max_nonfinite", "wandb")}
    if stage in _UNUSED:
        downstream = {key: value for key, value in settings["downstream"].items() if key not in _UNUSED[stage]}
        if stage == "fit":  # the trial is told on the command line
            downstream["finetune"] = {k: v for k, v in downstream["finetune"].items() if k not in ("lr", "batch_size")}
        if stage == "score":
            downstream["hub"] = [entry for entry in downstream["hub"] if entry["name"] == model]
        if stage != "table":
            for entry in downstream["datasets"]:
                del entry["published"]
        if parts:
            known = [dataset.key for dataset in config.downstream.datasets]
            own = [entry for key, entry in zip(known, downstream["datasets"], strict=True) if key == parts[0]]
            downstream |= {"datasets": own, "suites": [] if own else [parts[0]]}
        settings["downstream"] = downstream
    return settings


def parse_config(settings: dict[str, Any], origin: str) -> Config:
    """Validate a nested dict of settings.

    Raises ValueError naming ``origin`` and, for each fault, the key (of a sample sheet: line and column), the value and
    what is allowed.
    """
    origins: list[str] = []
    try:
        return Config.model_validate(settings, context={"origins": origins})
    except ValidationError as error:
        lines = []
        faults = error.errors()
        for fault in faults:
            size = len(fault["loc"])  # a list is also too short for its wrong entries
            if fault["type"] == "too_short" and any(f["loc"][:size] == fault["loc"] != f["loc"] for f in faults):
                continue
            key = _written(fault["loc"], origins)
            shown = (
                ""
                if fault["type"] in ("missing", "extra_forbidden") or isinstance(fault["input"], dict | list)
                else f" (is {fault['input']!r})"
            )
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                message = "unknown key; known here: " + ", ".join(_known_keys(fault["loc"][:-1]))
            lines.append(f"  {key}: {message}{shown}")
        raise ValueError(f"{origin}: the config is not valid\n" + "\n".join(lines)) from None


def load_config(path: str | Path) -> Config:
    """Read and validate a YAML (or JSON) config. Raises ValueError, or FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text in UTF-8. Save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter: a date that is none
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: a config is a mapping of sections, found {type(settings).__name__}")
    return parse_config(settings, str(path))


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a key that stands twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line, same = key.start_mark.line + 1, (key.tag, key.value)
            if same in lines:
                raise ValueError(
                    f"line {line}: the key {key.value!r} stands in this section a second time (before: line {lines[same]}). Remove one of them"
                )
            lines[same] = line
        return node


def _written(location: tuple[str | int, ...], origins: Sequence[str]) -> str:
    """Where the value of ``location`` was written: its key, in a sample sheet line and column."""
    if location[:2] == ("data", "sources") and len(location) > 2 and isinstance(location[2], int) and origins:
        where, rest = origins[location[2]], ".".join(map(str, location[3:]))
        return f"{'data.' if where.startswith('sources.') else ''}{where}{rest}".rstrip(".")
    return ".".join(map(str, location)) or "config"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Field names of the section at ``location``."""
    model: Any = Config
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            kinds = [model.model_fields[part].annotation]
            while kinds:
                kind = kinds.pop()
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    model = kind
                    break
                kinds.extend(getattr(kind, "__args__", ()))
    return sorted(model.model_fields)
