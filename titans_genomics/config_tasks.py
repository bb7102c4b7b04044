"""Sections of the config for text and for tasks that models are trained on directly: needles in text, state tracking, forecasting, lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from titans_genomics.config_data import Fraction, Name, Section


def _different(given: tuple[Any, ...], least: int | None = None) -> None:
    """Raise ValueError where something stands twice, or a number is below ``least``."""
    twice = next((value for value in given if given.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} stands here twice")
    if least is not None and min(given) < least:
        raise ValueError(f"numbers must be {least} or more")


class LearnConfig(Section):
    """Supervised training on a task: AdamW, linear warm-up, cosine to a tenth of the peak."""

    steps: int = Field(2000, ge=0, description="optimiser steps; 0: measure the model as it is")
    batch_size: int = Field(32, ge=1, description="examples per step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    warmup: Fraction = Field(0.05, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW decay of matrices")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    checkpoint_every: int = Field(
        200, ge=1, description="optimiser steps between checkpoints, from which a killed run goes on"
    )


class BabilongConfig(Section):
    """BABILong: questions of bAbI whose facts stand scattered in long text."""

    files: tuple[Path, ...] = Field(
        min_length=1,
        description="task files of bAbI (qa1_single-supporting-fact_test.txt, ...), in the published format",
    )
    lengths: tuple[int, ...] = Field((2048, 4096, 8192, 16384), min_length=1, description="tokens up to the answer")
    samples: int = Field(20, ge=1, description="questions per file and length")

    @field_validator("files")
    @classmethod
    def _names(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        _different(tuple(path.name for path in files))  # results go by the name
        return files

    @field_validator("lengths")
    @classmethod
    def _apart(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        _different(lengths, 1)
        return lengths


class NiahConfig(Section):
    """RULER's single needle in a haystack (S-NIAH), and BABILong."""

    kinds: tuple[Literal["pk", "n", "w"], ...] = Field(
        (),
        description="pk: a number in repeated sentences (niah_single_1), n: a number in text (niah_single_2), w: a UUID in text (niah_single_3); empty: off",
    )
    lengths: tuple[int, ...] = Field((2048, 4096, 8192, 16384), min_length=1, description="tokens up to the answer")
    depths: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, description="where the needle stands: 0 at the start, 1 at the end"
    )
    samples: int = Field(20, ge=1, description="samples per kind, length and depth (RULER has 500 per length)")
    max_tokens: int = Field(
        20_000_000,
        ge=1000,
        description="tokens read per kind, length and model; of long lengths there are fewer samples, but one per depth at least, even if that is more",
    )
    answer: int = Field(128, ge=1, description="tokens that are generated for an answer, greedily, at most")
    haystack: Path | None = Field(None, description="text file of the haystack; null: the held-out split of the run")
    piece: int = Field(4096, ge=1, description="tokens read at a time; changes speed and memory, not the result")
    context: int | None = Field(
        None, ge=64, description="tokens of the windows that models are trained on; null: train.context"
    )
    start: Literal["trained", "fresh"] = Field(
        "trained", description="training on the task begins with what `train` left, or with new weights"
    )
    fit: LearnConfig = Field(
        LearnConfig(steps=0),
        description="training on the task before it is measured; steps 0: as `train` left the models",
    )
    fits: dict[Name, dict[str, Any]] = Field(
        {},
        description="keys of fit that are different for a model, by its name, such as attention: {steps: 6000}",
    )
    babilong: BabilongConfig | None = Field(None, description="BABILong with local files; null: off")

    @field_validator("kinds", "lengths", "depths")
    @classmethod
    def _apart(cls, given: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        _different(given, 1 if info.field_name == "lengths" else None)
        return given

    @field_validator("depths")
    @classmethod
    def _shares(cls, depths: tuple[float, ...]) -> tuple[float, ...]:
        if min(depths) < 0 or max(depths) > 1:
            raise ValueError("depths are shares of the length, from 0 to 1")
        return depths

    @model_validator(mode="after")
    def _something_learned(self) -> NiahConfig:
        if self.start == "fresh" and not (self.fit.steps and self.kinds):
            raise ValueError(
                "niah.start fresh: new weights know nothing; give niah.fit.steps and niah.kinds to train on"
            )
        return self

    @model_validator(mode="after")
    def _fits_are_fits(self) -> NiahConfig:
        for name in self.fits:
            try:
                self.fit_of(name)
            except ValidationError as error:
                fault = error.errors()[0]
                key = ".".join(map(str, ("niah.fits", name, *fault["loc"])))
                raise ValueError(f"{key}: {fault['msg']}") from None
        return self

    @model_validator(mode="after")
    def _needles_to_train_on(self) -> NiahConfig:
        for key, fit in (("fit", self.fit), *((f"fits.{name}", self.fit_of(name)) for name in self.fits)):
            if fit.steps and not self.kinds:
                raise ValueError(
                    f"niah.{key}.steps {fit.steps}: training is on needles; name their kinds in niah.kinds (pk, n, w), or set it to 0"
                )
        return self

    def fit_of(self, name: str) -> LearnConfig:
        """How a model is trained on the task."""
        return LearnConfig.model_validate(self.fit.model_dump() | self.fits.get(name, {}))

    @property
    def asked(self) -> bool:
        """Whether the run measures any of it."""
        return bool(self.kinds or self.babilong)


class StatesConfig(Section):
    """State tracking: products of the elements of a group, read one after the other (the word problem)."""

    group: Literal["s5", "a5", "s4", "s3", "z60"] | None = Field(
        None, description="s5, a5: beyond TC0 (if it is not NC1); s4, s3, z60: solvable groups, within TC0; null: off"
    )
    inputs: Literal["generators", "elements"] = Field(
        "generators",
        description="letters of the words: a generating set (of s3, s4, s5 the swaps of two and the identity; of a5 the cycles of three; of z60 the powers of two and their inverses), or all elements",
    )
    train_length: int = Field(32, ge=2, description="longest words that models are trained on, letters")
    first_length: int = Field(4, ge=1, description="words of the first step, letters; at most train_length")
    grow: Fraction = Field(
        0.5, description="share of the steps in which words grow to train_length; 0: long ones at once"
    )
    lengths: tuple[int, ...] = Field(
        (16, 32, 64, 128, 256, 512), min_length=1, description="lengths that are measured, letters"
    )
    samples: int = Field(256, ge=1, description="words per length")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="one training per seed")
    baselines: tuple[Literal["lstm"], ...] = Field(
        ("lstm",),
        description="lstm: a nonlinear recurrence with as many parameters, which says what can be learned here",
    )
    validate_every: int = Field(
        100, ge=1, description="optimiser steps between validations; the best weights are measured"
    )
    fit: LearnConfig = Field(LearnConfig(steps=1000, batch_size=32, lr=2e-3), description="training")

    @field_validator("lengths", "seeds")
    @classmethod
    def _differ(cls, numbers: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        _different(numbers, 1 if info.field_name == "lengths" else 0)
        return numbers

    @model_validator(mode="after")
    def _grows(self) -> StatesConfig:
        if self.first_length > self.train_length:
            raise ValueError(
                f"states.first_length {self.first_length} must be at most states.train_length {self.train_length}"
            )
        return self


class PublishedForecast(Section):
    """Published errors, means over the four horizons of the field (96, 192, 336, 720), of scaled values."""

    mse: float = Field(ge=0, description="mean squared error")
    mae: float = Field(ge=0, description="mean absolute error")


PUBLISHED_HORIZONS = [96, 192, 336, 720]
"""Horizons of the field."""


class ForecastConfig(Section):
    """Forecasting of many series side by side: continuous inputs and outputs on the blocks of the model."""

    path: Path | None = Field(
        None, description="CSV with a column of times and numeric columns, plain or gzip; null: off"
    )
    name: Name | None = Field(None, description="name in the results; default: the file's stem")
    url: str | None = Field(None, description="where path is downloaded from when it is not there")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="checksum that the file must have")
    time: str = Field("date", min_length=1, description="column of the times, evenly spaced")
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="columns that are forecast; null: all but the times"
    )
    split: Literal["share", "ett"] = Field(
        "share", description="share: first 70% train, 10% validation, last 20% test; ett: 12, 4 and 4 months of 30 days"
    )
    lookback: int = Field(336, ge=8, description="steps that a forecast is made from")
    horizons: tuple[int, ...] = Field((96, 192, 336, 720), min_length=1, description="steps that are forecast")
    patch: int = Field(16, ge=1, description="steps of one token")
    stride: int = Field(16, ge=1, description="steps from one token to the next")
    revin: bool = Field(True, description="each window is scaled by its own mean and deviation and scaled back (RevIN)")
    gaps: Literal["error", "interpolate"] = Field(
        "error", description="missing values: an error, or linear between their neighbours"
    )
    seeds: tuple[int, ...] = Field(
        (0,),
        min_length=1,
        description="one training per seed, whose weights and windows are drawn from it alone; the top-level seed has no part in them",
    )
    baselines: tuple[Literal["last", "dlinear"], ...] = Field(("last", "dlinear"), description="last value; DLinear")
    max_windows: int | None = Field(
        None, ge=1, description="test windows that are measured at most, evenly spread; null: all"
    )
    published: dict[str, PublishedForecast] = Field(
        {},
        description="published rows that are shown beside the run's, by what they are called; only with horizons 96, 192, 336, 720, of which they are means",
    )
    fit: LearnConfig = Field(LearnConfig(steps=1000, lr=1e-3), description="training at one horizon")
    dlinear: LearnConfig | None = Field(None, description="training of DLinear at one horizon; null: as fit has it")

    def fit_of(self, name: str) -> LearnConfig:
        """The training of a model or of DLinear."""
        return self.dlinear if name == "dlinear" and self.dlinear is not None else self.fit

    @property
    def key(self) -> str:
        """The name in results."""
        assert self.path is not None
        return self.name or self.path.name.split(".")[0]

    @field_validator("horizons", "seeds")
    @classmethod
    def _apart(cls, numbers: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        _different(numbers, 1 if info.field_name == "horizons" else 0)
        return numbers

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        _different(columns or ())
        return columns

    @model_validator(mode="after")
    def _published_means(self) -> ForecastConfig:
        if self.published and sorted(self.horizons) != PUBLISHED_HORIZONS:
            raise ValueError(
                f"forecast.published: means over horizons {PUBLISHED_HORIZONS}, not comparable with forecast.horizons {sorted(self.horizons)}; "
                "leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _tokens_fit(self) -> ForecastConfig:
        if self.patch > self.lookback or self.stride > self.patch:
            raise ValueError(
                f"forecast.patch {self.patch} must be at most forecast.lookback {self.lookback}, and forecast.stride {self.stride} at most the patch"
            )
        return self


class LmEvalConfig(Section):
    """Tasks of the lm-evaluation-harness."""

    tasks: tuple[str, ...] = Field((), description="names of tasks, such as wikitext, lambada_openai, piqa; empty: off")
    include: Path | None = Field(None, description="folder with task files of one's own (YAML)")
    limit: int | None = Field(None, ge=1, description="documents per task at most; null: all")
    fewshot: int | None = Field(None, ge=0, description="examples before each question; null: as the task has it")
    piece: int = Field(4096, ge=1, description="tokens read at a time; changes speed and memory, not the result")
    batch_tokens: int = Field(16_384, ge=1, description="tokens of a batch of requests, padding included")

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for name in tasks:
            if not name.strip():
                raise ValueError("the name of a task is empty")
        _different(tasks)
        return tasks
