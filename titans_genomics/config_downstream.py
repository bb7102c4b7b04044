"""The sections of what is measured downstream of training: benchmarks, species, needles, sequence variants.

Part of the one schema (`config`); like it, this module imports no torch.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from titans_genomics.config_data import Fraction, Name, Section, SourceConfig

Method = Literal["finetune", "lora", "scratch", "probe", "knn", "cnn", "kmer"]
Metric = Literal["accuracy", "mcc", "f1", "auroc", "auprc", "r2", "pearson", "spearman"]
METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "mcc", "f1", "auroc", "auprc"),
    "multilabel": ("auroc", "auprc", "f1", "mcc", "accuracy"),
    "regression": ("r2", "pearson", "spearman"),
}
"""The metrics of each task; the first is the headline unless a dataset says otherwise."""
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]

WITHOUT_MODEL: tuple[Method, ...] = ("cnn", "kmer")
"""Methods that need none of the run's models."""
FITTED: tuple[Method, ...] = ("finetune", "lora", "scratch", "cnn")
"""Methods that train a network, once per trial and seed; the others are fitted within `score`."""


# ----------------------------------------------------------------------------------------- benchmarks


_NAME = TypeAdapter(Name)


def _check_key(key: str, path: Path) -> None:
    """Raise ValueError when the name that is taken from a file cannot be one."""
    try:
        _NAME.validate_python(key)
    except ValidationError:
        raise ValueError(
            f"{path}: {key!r} cannot be a name (letters, digits, . _ and -, beginning with a letter or digit); give a `name`"
        ) from None


class PublishedConfig(Section):
    """A published figure on a dataset, to stand beside one's own."""

    model: str = Field(min_length=1, description="model or method")
    value: Fraction = Field(description="the dataset's metric, as a share")
    protocol: str = Field(min_length=1, description="how it was measured")
    source: str = Field(min_length=1, description="where it is published")


class DatasetConfig(Section):
    """A labelled dataset of one's own."""

    path: Path = Field(
        description="CSV, TSV, Parquet or FASTA (plain or gzip) with labels, or a folder in the layout of a benchmark: train/CLASS/*.txt, train.csv and test.csv, train.fna and test.fna, or Parquet parts"
    )
    name: Name | None = Field(None, description="name in the results; default: the file's stem")
    task: Literal["auto", "classification", "multilabel", "regression"] = Field(
        "auto",
        description="auto: multilabel when there are several label columns, regression when labels are numbers with decimals, else classification",
    )
    sequence: str = Field(
        "sequence",
        min_length=1,
        description="column of the sequence (seq is found as well); in FASTA the record itself",
    )
    label: str | tuple[str, ...] = Field(
        "label",
        description="column of the label; several columns: multilabel (0 or 1) or regression. FASTA: key of `key=value` in the header, else what stands behind the last |",
    )
    id: str | None = Field(
        None, min_length=1, description="column of a unique name; default: id when there is one, else the row number"
    )
    split: str | None = Field(
        None, min_length=1, description="column that says train, validation or test; default: split when there is one"
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="column whose rows of one value stay on one side of every split (chromosome, gene, family)",
    )
    test: Path | None = Field(None, description="a second file, the test set")
    test_share: float = Field(0.2, gt=0, lt=1, description="share held out for the test where no test set is given")
    metric: Metric | None = Field(
        None, description="headline metric; default: accuracy, auroc of multilabel, r2 of regression"
    )
    strands: Literal["both", "given"] | None = Field(
        None,
        description="given: the label is that of the strand that stands there, as of splice sites; null: as downstream.strands says",
    )
    max_length: int | None = Field(
        None, ge=1, description="longer sequences are cut to their middle, bases; null: whole"
    )
    max_ambiguous: Fraction = Field(
        0.1, description="largest share of letters other than A C G T in the dataset; more is an error"
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="checksum that the file must have (of a folder that of the checksums of its files, which prepare records; with a test file that of the checksums of both)",
    )
    published: tuple[PublishedConfig, ...] = Field((), description="figures of others that stand beside the results")

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The label columns, one or more."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def key(self) -> str:
        """The dataset's name in results."""
        return self.name or self.path.name.split(".")[0]

    @model_validator(mode="after")
    def _named(self) -> DatasetConfig:
        _check_key(self.key, self.path)
        return self

    @model_validator(mode="after")
    def _columns(self) -> DatasetConfig:
        fitting = METRICS.get(self.task, ())
        if self.metric is not None and fitting and self.metric not in fitting:
            raise ValueError(f"metric {self.metric} does not fit task {self.task}: choose {', '.join(fitting)}")
        if not self.label_columns or len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("label needs one column, or several different ones")
        if len(self.label_columns) > 1 and self.task == "classification":
            raise ValueError("task classification has one label column; several are multilabel or regression")
        return self


class FinetuneConfig(Section):
    """Training on a labelled dataset: of a whole model, of low-rank additions to it (LoRA), from random weights, and of the CNN.

    Every combination of ``lr`` and ``batch_size`` is a trial; the best on validation, mean over seeds, is the one that is tested.
    """

    lr: tuple[Rate, ...] = Field((1e-3, 2e-3), min_length=1, description="learning rates of AdamW that are tried")
    batch_size: tuple[Positive, ...] = Field(
        (128, 256), min_length=1, description="sequences per optimiser step that are tried"
    )
    epochs: int = Field(10, ge=1, description="passes over the training sequences at most")
    patience: int = Field(3, ge=1, description="epochs without a better validation metric after which training stops")
    warmup: Fraction = Field(
        0.1, description="share of the steps in which the learning rate rises; then it falls (cosine)"
    )
    weight_decay: float = Field(0.1, ge=0, description="AdamW decay of matrices")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the classification head")
    lora_rank: int = Field(8, ge=1, description="lora: rank of the additions to every linear layer")
    lora_alpha: float = Field(16.0, gt=0, description="lora: the additions are scaled by alpha / rank")

    @field_validator("lr", "batch_size")
    @classmethod
    def _different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a value stands there twice")
        return values


class HubConfig(Section):
    """A pre-trained model of the Hugging Face Hub, or a folder with one, that is probed beside the run's own."""

    name: Name = Field(description="name in the results")
    repo: str = Field(min_length=1, description="OWNER/NAME on the Hub, or a folder")
    revision: str | None = Field(None, description="commit or tag; name one, so that results stay what they are")
    max_length: int = Field(512, ge=1, description="tokens the model can read; longer input is cut")
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model: only for a pinned revision that you have read"
    )

    @model_validator(mode="after")
    def _pinned(self) -> HubConfig:
        if self.trust_remote_code and self.revision is None:
            raise ValueError("trust_remote_code needs a revision, so that the code that runs is the code that was read")
        return self


class DownstreamConfig(Section):
    """Labelled datasets: how well do they come out, with what is asked of the models, and of the baselines beside them?"""

    suites: tuple[str, ...] = Field(
        (),
        description="benchmark suites of this run, or single datasets of them by name (genomic_benchmarks, nucleotide_transformer, nucleotide_transformer_revised, gue, human_nontata_promoters, ...)",
    )
    datasets: tuple[DatasetConfig, ...] = Field((), description="datasets of one's own")
    folder: Path = Field(
        Path("benchmark_data"),
        description="folder of official copies, FOLDER/DATASET or FOLDER/SUITE/DATASET; downloads go there",
    )
    download: bool = Field(
        True, description="download what is not in the folder; false: an error that says where to put it"
    )
    methods: tuple[Method, ...] = Field(
        ("finetune", "scratch", "probe", "kmer", "cnn"),
        min_length=1,
        description="finetune (whole model), lora, scratch (random weights), probe (linear, frozen), knn; the baselines cnn and kmer",
    )
    models: tuple[Name, ...] | None = Field(
        None, description="which of the run's models; null: all (titans, transformer, those of compare)"
    )
    hub: tuple[HubConfig, ...] = Field((), description="pre-trained models from elsewhere, probed beside the run's own")
    protocol: Literal["caduceus", "hyenadna"] = Field(
        "caduceus",
        description="caduceus: part of train is validation, all choices are made there, test is read once; hyenadna: all of train is trained on and choices are made on the test set (optimistic, labelled so)",
    )
    validation: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="caduceus: share of the training sequences that is validation, another draw for each seed",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 3, 4), min_length=1, description="draws of validation, weights and order"
    )
    pooling: Literal["mean", "last"] = Field("mean", description="how per-token states become one vector")
    strands: Literal["both", "given"] = Field(
        "both",
        description="both: forward and reverse complement, averaged, so that it does not matter which is given; given: as it stands",
    )
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig, description="training on the dataset")
    kmer: int = Field(5, ge=1, le=8, description="k of the k-mer logistic regression")
    neighbours: tuple[Positive, ...] = Field(
        (1, 5, 20), min_length=1, description="knn: numbers of neighbours that are tried"
    )
    bootstrap: int = Field(
        1000, ge=0, description="resamples of the test set and of the seeds for the 95% confidence intervals"
    )
    max_sequences: int | None = Field(
        None,
        ge=10,
        description="use at most so many sequences of each split (seeded, by class): for a quick look, and said so in the results",
    )

    @field_validator("methods", "seeds", "models", "suites")
    @classmethod
    def _once(cls, values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError("a value stands there twice")
        return values

    @model_validator(mode="after")
    def _names(self) -> DownstreamConfig:
        names = [dataset.key for dataset in self.datasets] + [model.name for model in self.hub]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} stands twice: give each dataset and hub model a name of its own")
        return self

    def trials(self, method: Method) -> list[str]:
        """The trials of a fitted method, such as "lr0.001-batch128"; the CNN has one, that of its authors."""
        if method == "cnn":
            return ["lr0.001-batch64"]
        settings = self.finetune
        return [f"lr{lr:g}-batch{size}" for lr in settings.lr for size in settings.batch_size]


# ------------------------------------------------------------------------------------------- species


class SpeciesClass(Section):
    """One class of the species task."""

    species: str = Field(min_length=1, description="the class")
    path: Path | None = Field(
        None, description="FASTA or GenBank file; null: the held-out split of the source named in `source`"
    )
    source: Name | None = Field(
        None, description="a name of data.sources whose held-out (test) tokens are used instead of a file"
    )

    @model_validator(mode="after")
    def _one(self) -> SpeciesClass:
        if (self.path is None) == (self.source is None):
            raise ValueError(f"species {self.species!r} needs either path or source")
        return self


class SpeciesConfig(Section):
    """Which species does a sequence come from? Linear probe on frozen embeddings."""

    classes: tuple[SpeciesClass, ...] = Field((), description="the classes, two or more; empty switches the task off")
    length: tuple[Annotated[int, Field(ge=16)], ...] = Field(
        (512,), min_length=1, description="sequence lengths, bases; the task is run at each"
    )
    per_class: int = Field(
        300,
        ge=10,
        description="sequences per class, train and test together; fewer where longer ones leave no room for so many",
    )
    test: float = Field(0.3, gt=0, lt=1, description="share of each class's regions that is held out for the test")
    region: int = Field(
        16_384,
        ge=64,
        description="contiguous regions of this many bases (of a sequence, if that is longer) go to train or test as a whole",
    )
    kmer: int = Field(4, ge=1, le=8, description="k of the k-mer logistic regression beside it")
    pooling: Literal["mean", "last"] = Field("mean", description="how per-token states become one embedding")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="one draw of sequences and one probe per seed")
    bootstrap: int = Field(1000, ge=0, description="resamples for the 95% confidence intervals")

    @field_validator("length", mode="before")
    @classmethod
    def _one_length(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _two(self) -> SpeciesConfig:
        labels = [s.species for s in self.classes]
        if len(labels) == 1 or len(set(labels)) < len(labels):
            raise ValueError("species.classes needs two or more classes with different names")
        if not 0 < round(self.per_class * self.test) < self.per_class:
            raise ValueError(
                f"test {self.test} of {self.per_class} sequences per class leaves none to train on or none to test on"
            )
        return self

    def files(self) -> list[SourceConfig]:
        """The classes that are read from files of their own."""
        return [SourceConfig(path=entry.path, species=entry.species) for entry in self.classes if entry.path]


# ------------------------------------------------------------------------------------------- needles


class NeedleConfig(Section):
    """Needle in a genome: a motif with a payload behind it is planted in held-out sequence; is the payload recalled at the motif?"""

    lengths: tuple[Annotated[int, Field(ge=256)], ...] = Field(
        (), description="bases read before the motif is shown again; empty switches the task off"
    )
    depths: tuple[Fraction, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 0.95),
        min_length=1,
        description="where the needle stands, as a share of the length: 0 at the start, 1 just before the question",
    )
    motif: int = Field(32, ge=4, description="bases of the motif, drawn at random")
    payload: int = Field(16, ge=1, description="bases of the payload behind it, drawn at random")
    samples: int = Field(16, ge=1, description="stretches of genome per length; one needle per depth stands in each")
    max_bases: int = Field(
        4_000_000,
        ge=256,
        description="bases read per length and model: of long lengths there are fewer stretches (at least two)",
    )
    source: Name | None = Field(None, description="source whose test split is read; null: the first that has one")
    piece: int = Field(4096, ge=1, description="tokens read at a time; changes speed and memory, not the result")
    tune_steps: int = Field(
        0,
        ge=0,
        description="optimiser steps on needles in windows of up to train.context bases of the training split, before a second measurement; recall takes some hundreds to appear; 0: none",
    )

    def places(self, length: int) -> list[int]:
        """The first base of the needle of each depth in ``length`` bases.

        Raises ValueError where two of them would overlap, or one is longer than that.
        """
        size = self.motif + self.payload
        places = [round(depth * (length - size)) for depth in self.depths]
        order = sorted(range(len(places)), key=places.__getitem__)
        close = [(i, j) for i, j in pairwise(order) if places[j] - places[i] < size]
        if length < size or close:
            first, second = (self.depths[i] for i in close[0]) if close else (self.depths[0],) * 2
            raise ValueError(
                f"needle.lengths: {length:,} bases leave no room for needles of {size} bases (needle.motif and needle.payload) at the "
                f"depths {first:g} and {second:g} of needle.depths; raise the length, or take depths that lie further apart"
            )
        return places

    @model_validator(mode="after")
    def _room(self) -> NeedleConfig:
        for length in self.lengths:
            self.places(length)
        return self


# -------------------------------------------------------------------------------------------- variants


class VariantSetConfig(Section):
    """A labelled set of sequence variants."""

    path: Path = Field(
        description="CSV, TSV or Parquet: reference and alternative sequence (with the flanks a model should read), label"
    )
    name: Name | None = Field(None, description="name in the results; default: the file's stem")
    ref: str = Field("ref", min_length=1, description="column of the reference sequence")
    alt: str = Field("alt", min_length=1, description="column of the alternative sequence")
    label: str = Field("label", min_length=1, description="column of the label: 0 and 1, or a number")
    id: str | None = Field(None, min_length=1, description="column of a unique name; default: the row number")
    max_variants: int | None = Field(
        None, ge=10, description="use at most so many (drawn by label, always the same); null: all"
    )

    @property
    def key(self) -> str:
        """The set's name in results."""
        return self.name or self.path.name.split(".")[0]

    @model_validator(mode="after")
    def _named(self) -> VariantSetConfig:
        _check_key(self.key, self.path)
        return self


class VariantsConfig(Section):
    """Zero-shot: log-likelihood of the alternative minus that of the reference, both strands averaged."""

    sets: tuple[VariantSetConfig, ...] = Field((), description="labelled sets of variants; empty switches the task off")
    bootstrap: int = Field(1000, ge=0, description="resamples for the 95% confidence intervals")

    @model_validator(mode="after")
    def _names(self) -> VariantsConfig:
        names = [entry.key for entry in self.sets]
        if len(set(names)) < len(names):
            raise ValueError("variants.sets: give each set a name of its own")
        return self
