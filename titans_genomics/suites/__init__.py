"""Benchmark suites: which datasets there are, where they come from, how they are measured, and what was published on them.

A suite is a YAML file beside this one. Nothing is read before it is asked for, and then once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from titans_genomics.config_downstream import Metric, Name, Section

Count = Annotated[int, Field(ge=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]
Relative = Annotated[str, Field(pattern=r"^[\w{}][\w.{}-]*(/[\w{}][\w.{}-]*)*$")]


class Published(Section):
    """A figure that somebody else published."""

    model: Text
    value: Percent = Field(description="in per cent; of MCC and F1 100 times the coefficient")
    protocol: Text = Field(description="how the figure was come by; figures of different protocols must not be mixed")
    source: Text


class Sizes(Section):
    """Sequences of each split; null: not known."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class ZenodoFile(Section):
    """A zip file of a Zenodo record, with the dataset's folder in it."""

    record: Count
    file: Relative


class HubFiles(Section):
    """Files of a dataset repository on the Hugging Face Hub, at one commit."""

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    files: Annotated[tuple[Relative, ...], Field(min_length=1)]


def _three(length: Any) -> Any:
    return (length,) * 3 if isinstance(length, int) else length


Length = Annotated[tuple[Count | None, Count | None, Count | None], BeforeValidator(_three)]


class SuiteDataset(Section):
    """One dataset of a suite."""

    name: Name = Field(description="name in configs and results, unique over all suites")
    suite: Name
    official: Text = Field(description="its name in the suite's own files")
    title: Text
    metric: Metric
    classes: Annotated[int, Field(ge=2)]
    length: Length | None = Field(None, description="bases: shortest, median, longest; one number when all are as long")
    max_length: Count | None = Field(
        None, description="the protocol cuts longer sequences to so many bases; null: whole"
    )
    strands: Literal["both", "given"] | None = Field(
        None,
        description="given: the label is that of the strand that stands there (splice sites); null: as the config says",
    )
    sizes: Sizes = Sizes()
    places: tuple[Relative, ...] = Field((), description="where official copies have it, below the folder of copies")
    download: ZenodoFile | HubFiles
    published: tuple[Published, ...] = ()


class Suite(Section):
    """A benchmark suite."""

    name: Name
    title: Text
    homepage: Text
    note: Text
    datasets: tuple[SuiteDataset, ...] = Field(min_length=1)


class _Column(Section):
    """What figures of one column of a published table share."""

    model: Text
    protocol: Text
    source: Text


class _SuiteFile(Section):
    """A suite as its YAML has it: what all datasets share stands once, ``{official}`` and ``{name}`` are filled in."""

    title: Text
    homepage: Text
    note: Text
    prefix: str = ""
    metric: Metric | None = None
    classes: int = 2
    places: tuple[Relative, ...] = ()
    download: ZenodoFile | HubFiles
    columns: dict[str, _Column] = Field(default_factory=dict)
    datasets: dict[Text, dict[str, Any]]

    @model_validator(mode="after")
    def _columns_known(self) -> _SuiteFile:
        for official, entry in self.datasets.items():
            unknown = sorted(set(entry.get("published", {})) - set(self.columns))
            if unknown:
                raise ValueError(f"{official}: the column {unknown[0]!r} of published is not described in columns")
        return self

    def suite(self, name: str) -> Suite:
        """The suite, each dataset complete."""
        return Suite(
            name=name,
            datasets=tuple(self._dataset(name, official, entry) for official, entry in self.datasets.items()),
            **{key: getattr(self, key) for key in ("title", "homepage", "note")},
        )

    def _dataset(self, suite: str, official: str, entry: dict[str, Any]) -> SuiteDataset:
        name = self.prefix + official

        def filled(value: Any) -> Any:
            if isinstance(value, str):
                return value.replace("{official}", official).replace("{name}", name)
            if isinstance(value, dict):
                return {key: filled(inner) for key, inner in value.items()}
            return [filled(inner) for inner in value] if isinstance(value, list | tuple) else value

        own = {"name": name, "suite": suite, "official": official, "classes": self.classes}
        if self.metric is not None:
            own["metric"] = self.metric
        published = [
            {**self.columns[column].model_dump(), "value": value}
            for column, value in entry.get("published", {}).items()
        ]
        places = filled([*self.places, *entry.get("places", ())])
        download = filled(self.download.model_dump())
        return SuiteDataset.model_validate(
            {**own, **entry, "places": places, "download": download, "published": published}
        )


@cache
def _suite(name: str) -> Suite:
    import yaml

    content = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return _SuiteFile.model_validate(yaml.load(content, Loader=loader)).suite(name)


class _Suites(Mapping[str, Suite]):
    """The suites by name; each is read when it is first asked for."""

    _names = ("genomic_benchmarks", "nucleotide_transformer", "nucleotide_transformer_revised", "gue")

    def __getitem__(self, name: str) -> Suite:
        if name not in self._names:
            raise KeyError(name)
        return _suite(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


SUITES: Mapping[str, Suite] = _Suites()


def find(name: str) -> list[SuiteDataset]:
    """The datasets of a suite, or one dataset by its name.

    Raises
    ------
    ValueError
        There is no such suite or dataset; or ``name`` is what suites call a dataset in their own files, and more than
        one does (the two sets of Nucleotide Transformer tasks, which must not be mixed).
    """
    if name in SUITES:
        return list(SUITES[name].datasets)
    every = [dataset for suite in SUITES.values() for dataset in suite.datasets]
    found = [dataset for dataset in every if dataset.name == name]
    if found:
        return found
    meant = [dataset for dataset in every if dataset.official == name]
    if len(meant) == 1:
        raise ValueError(f"downstream.suites: {name!r} is called {meant[0].name} here")
    if meant:
        choices = "; ".join(f"{dataset.name} ({SUITES[dataset.suite].note})" for dataset in meant)
        raise ValueError(
            f"downstream.suites: {name!r} is the name of {len(meant)} different datasets, whose figures must not be mixed. Name one: {choices}"
        )
    close = get_close_matches(name, [*SUITES, *(dataset.name for dataset in every)], n=3, cutoff=0.6)
    hint = f" Near it: {', '.join(close)}." if close else ""
    listed = "; ".join(f"{key} ({', '.join(d.name for d in suite.datasets)})" for key, suite in SUITES.items())
    raise ValueError(f"downstream.suites: there is no suite or dataset {name!r}.{hint} There are: {listed}")


def other_sizes(dataset: SuiteDataset, found: Mapping[str, int]) -> str | None:
    """A warning when a copy has other numbers of sequences than the official dataset; None when it has them.

    Parameters
    ----------
    dataset
        What the copy should be.
    found
        Its sequences by split: ``train``, ``validation``, ``test``. Splits whose official size is not known are not compared.
    """
    known = {split: size for split, size in dataset.sizes.model_dump().items() if size is not None}
    wrong = [split for split, size in known.items() if found.get(split, 0) != size]
    if not wrong:
        return None
    has = ", ".join(f"{found.get(split, 0):,} {split} sequences (official: {known[split]:,})" for split in wrong)
    twins = [twin for suite in SUITES.values() for twin in suite.datasets if twin.official == dataset.official]
    for twin in twins:
        sizes = {split: size for split, size in twin.sizes.model_dump().items() if size is not None}
        if twin != dataset and sizes and all(found.get(split, 0) == size for split, size in sizes.items()):
            return f"{dataset.name}: the copy has {has}: these are the numbers of {twin.name}, a different dataset"
    return f"{dataset.name}: the copy has {has}; published figures are not comparable with it"
