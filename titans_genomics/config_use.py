"""The section ``use`` of the config: what a trained model is used for, on which genomes, by which targets of the workflow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from titans_genomics.config_data import Fraction, Name, Section
from titans_genomics.sheet_rows import Columns, read_rows


class UseSample(Section):
    """A genome, and files that go with it; a row of a sample sheet."""

    sample: Name = Field(description="name in the results")
    fasta: Path | None = Field(None, description="the genome: FASTA, plain or gzip")
    vcf: Path | None = Field(None, description="variants to score, VCF or BCF")
    labels: Path | None = Field(
        None,
        description="table of their labels (TSV: chrom, pos, ref, alt and the label), where these are not in the VCF",
    )
    loci: Path | None = Field(None, description="BED of loci whose every substitution is scored")
    bed: Path | None = Field(None, description="BED of intervals to embed")
    sequences: Path | None = Field(None, description="records or reads to embed: FASTA, FASTQ, BAM or CRAM")
    annotation: Path | None = Field(None, description="BED or GFF that is shown beside the tracks")
    mask: Path | None = Field(None, description="BED or GFF of what is left out of the tracks")
    test: Path | None = Field(
        None, description="another genome, such as a second strain, that the memory of this one is tested on"
    )
    memory: str | None = Field(
        None,
        min_length=1,
        description="what every reading begins with: a sample of the sheet, whose genome is memorised first, or a file that `memorize` saved",
    )

    @model_validator(mode="after")
    def _files_agree(self) -> UseSample:
        if self.fasta is None:
            lonely = next(
                (key for key in ("vcf", "labels", "loci", "bed", "annotation", "mask", "test") if getattr(self, key)),
                None,
            )
            if lonely is not None:
                raise ValueError(f"sample {self.sample!r}: {lonely} needs a genome; name it under fasta")
            if self.sequences is None:
                raise ValueError(f"sample {self.sample!r}: nothing to read; name a genome under fasta, or sequences")
            if self.sequences.suffix.lower() == ".cram":
                raise ValueError(f"sample {self.sample!r}: a CRAM needs the genome of its reads; name it under fasta")
        if self.labels is not None and self.vcf is None:
            raise ValueError(f"sample {self.sample!r}: labels are those of variants; name them under vcf")
        if self.bed is not None and self.sequences is not None:
            raise ValueError(f"sample {self.sample!r}: bed and sequences are both embedded; make two samples of them")
        return self

    def files(self) -> list[tuple[str, Path]]:
        """Its files with their keys; not a memory."""
        found = [(key, getattr(self, key)) for key in _FILES]
        return [(key, path) for key, path in found if path is not None]


_GENERATED = ("generated.fa", "generated.json", "generated.html")

_FILES = ("fasta", "vcf", "labels", "loci", "bed", "sequences", "annotation", "mask", "test")

_SHEET = Columns(
    ("sample", *_FILES, "memory"),
    "sample",
    "the name of a sample",
    "use.samples",
    "Samples also stand in a list: `samples: [{{sample: NAME, fasta: FILE}}]`",
)


class ScoreConfig(Section):
    """Scoring variants: `titans-genomics score-variants`, `saturate` and `evaluate-variants`."""

    context: int | None = Field(
        None, ge=2, description="bases that are read of each locus; null: up to 8,192, as the run was evaluated"
    )
    after: int | None = Field(None, ge=1, description="how many of them lie behind the allele; null: up to 512")
    share: int | None = Field(
        None, ge=1, description="windows begin at multiples of this, bases; null: a quarter of the context"
    )
    max_mismatch: Fraction = Field(
        0.01, description="largest share of records whose reference allele is not in the genome"
    )
    label: str | None = Field(
        None,
        min_length=1,
        description="INFO key, or column of the table of labels, that labels the records; null: no evaluation against labels",
    )
    positive: tuple[str, ...] = Field(("1",), min_length=1, description="its values for class 1")
    negative: tuple[str, ...] = Field(("0",), min_length=1, description="its values for class 0")

    @model_validator(mode="after")
    def _window_and_classes(self) -> ScoreConfig:
        if self.context is not None and self.after is not None and self.after >= self.context:
            raise ValueError(f"after {self.after} must be below context {self.context}")
        both = set(self.positive) & set(self.negative)
        if both:
            raise ValueError(f"{min(both)!r} stands under positive and under negative; a value is of one class")
        return self


class TracksConfig(Section):
    """Tracks along a genome: `titans-genomics track`."""

    tracks: tuple[Literal["bits", "entropy", "surprise", "alpha", "eta", "theta"], ...] = Field(
        ("bits", "entropy", "surprise", "alpha", "eta"), min_length=1, description="what is written"
    )
    step: int = Field(1, ge=1, description="bases of one value")
    mask: tuple[Literal["n", "soft"], ...] = Field(
        (), description="what is left out: N, soft-masked bases; of a file see the samples"
    )
    heads: Literal["mean", "each"] = Field("mean", description="mean over the heads of a layer, or a track for each")
    flatten: bool = Field(False, description="divide out how surprise falls within a stretch")
    intervals: int = Field(100, ge=0, description="most surprising intervals in surprising.bed")


class EmbedConfig(Section):
    """Vectors: `titans-genomics embed`."""

    format: Literal["parquet", "h5", "h5ad"] = Field("parquet", description="Parquet, HDF5 or AnnData")
    per: Literal["sequence", "position"] = Field("sequence", description="one vector per sequence, or per token")
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="after which blocks, 0 is the token embedding; null: the last"
    )
    pooling: Literal["mean", "last"] = Field("mean", description="how a sequence becomes one vector")
    picture: Literal["pca", "umap"] | None = Field(
        None, description="draw the vectors in the plane; umap needs the package umap-learn"
    )


class GenerateConfig(Section):
    """New sequence: `titans-genomics generate`."""

    length: int = Field(10_000, ge=1, description="bases of each sequence")
    count: int = Field(1, ge=1, description="sequences, for each record of the prompt")
    prompt: str | None = Field(None, min_length=1, description="letters, or a file of sequences, to go on from")
    temperature: float = Field(1.0, ge=0, description="below 1 likelier, above 1 wilder; 0: the likeliest")
    top_k: int = Field(0, ge=0, description="only the k likeliest tokens; 0: all")
    top_p: Fraction = Field(1.0, description="only the likeliest tokens of this share together")
    seed: int = Field(0, ge=0, description="the same seed gives the same sequences")
    memory: str | None = Field(
        None, min_length=1, description="what it begins with: a sample, whose genome is memorised first, or a file"
    )
    genome: Path | None = Field(
        None, description="sequence file that they are compared with; null: what the model was trained on"
    )


class MemorizeConfig(Section):
    """A genome read once: `titans-genomics memorize`."""

    how: Literal["mean", "last"] = Field(
        "mean", description="mean of the memories after every stretch, or the last one"
    )


class UseConfig(Section):
    """What a trained model is used for; nothing of it runs unless one of its targets is asked for."""

    model: Path | None = Field(
        None, description="folder of a run whose model is used; null: this run's, trained first where it is not"
    )
    name: Name = Field("titans", description="which model of that run")
    samples: tuple[UseSample, ...] = Field(
        (), description="genomes and files, as a list or the path of a sample sheet (TSV, CSV) with these columns"
    )
    device: str | None = Field(
        None, pattern=r"^(cpu|cuda)(:\d+)?$", description="cpu, cuda or cuda:1; null: a GPU if there is one"
    )
    strands: Literal["both", "given"] = Field(
        "both", description="variants, vectors and memories: average both strands, or read as given"
    )
    stretch: int | None = Field(
        None,
        ge=0,
        description="tokens after which the memory begins anew; 0: never; null: as the run was evaluated",
    )
    score_variants: ScoreConfig = Field(ScoreConfig(), description="variants")
    tracks: TracksConfig = Field(TracksConfig(), description="tracks")
    embed: EmbedConfig = Field(EmbedConfig(), description="vectors")
    generate: GenerateConfig = Field(GenerateConfig(), description="new sequence")
    memorize: MemorizeConfig = Field(MemorizeConfig(), description="memory of genomes")

    @field_validator("samples", mode="before")
    @classmethod
    def _sheet(cls, samples: Any) -> Any:
        if not isinstance(samples, (str, Path)):
            return samples
        entries = []
        for where, entry in read_rows(Path(samples), _SHEET):
            try:
                entries.append(UseSample.model_validate(entry))
            except ValidationError as error:
                fault = error.errors()[0]
                said = ": ".join([*map(str, fault["loc"]), fault["msg"].removeprefix("Value error, ")])
                raise ValueError(f"{where.removesuffix(', column ')}: {said}") from None
        return tuple(entries)

    @model_validator(mode="after")
    def _samples_agree(self) -> UseConfig:
        counted = Counter(entry.sample for entry in self.samples)
        twice = next((name for name, count in counted.items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"use.samples: the sample {twice!r} stands here twice; give each a name of its own")
        for entry in self.samples:
            if entry.sample in _GENERATED:
                raise ValueError(
                    f"use.samples: a sample cannot be named {entry.sample!r}: `generate` writes a file of that name; rename it"
                )
        for what, begin in [*((repr(s.sample), s.memory) for s in self.samples), ("generate", self.generate.memory)]:
            if begin in counted and self.sample(begin).fasta is None:
                raise ValueError(
                    f"use.samples: {what} begins with the memory of {begin!r}, which has no fasta to memorise"
                )
        return self

    def sample(self, name: str) -> UseSample:
        """The sample of that name."""
        return next(entry for entry in self.samples if entry.sample == name)

    def files(self) -> list[tuple[str, Path]]:
        """Every file that must be there, with its key."""
        names = {entry.sample for entry in self.samples}
        kept = [(f"use.samples.{entry.sample}.memory", entry.memory) for entry in self.samples]
        kept.append(("use.generate.memory", self.generate.memory))
        found = [(f"use.samples.{entry.sample}.{key}", path) for entry in self.samples for key, path in entry.files()]
        if self.generate.genome is not None:
            found.append(("use.generate.genome", self.generate.genome))
        return found + [(key, Path(file)) for key, file in kept if file is not None and file not in names]

    def memory(self, name: str | None, folder: str) -> list[str]:
        """The memory that a sample's readings (of None: `generate`) begin with, one file or none; ``folder`` holds those of samples."""
        begin = self.generate.memory if name is None else self.sample(name).memory
        if begin is None:
            return []
        return [f"{folder}/{begin}/memory.safetensors" if any(begin == s.sample for s in self.samples) else begin]

    def given(self, name: str, key: str) -> list[str]:
        """The file that a sample names under a key, one or none."""
        path = getattr(self.sample(name), key)
        return [] if path is None else [str(path)]

    def reference(self, name: str) -> list[str]:
        """The genome that the reads of a CRAM were aligned to, one or none."""
        sample = self.sample(name)
        return (
            self.given(name, "fasta")
            if sample.sequences is not None and sample.sequences.suffix.lower() == ".cram"
            else []
        )

    def embedded(self, name: str) -> Path | None:
        """What `embed` reads of a sample."""
        sample = self.sample(name)
        return sample.sequences or sample.fasta

    @property
    def compared(self) -> list[str]:
        """Files that `generate` reads: what it goes on from, unless that is letters, and the genome of its report."""
        files = (self.generate.prompt, self.generate.genome)
        return [str(file) for file in files if file is not None and Path(file).is_file()]

    def made(self, target: str) -> list[str]:
        """What a target of `USES` makes, relative to the folder of all samples.

        Raises
        ------
        ValueError
            No sample has what the target needs.
        """
        if target == "generate":
            return [_GENERATED[0]]
        column, file = USES[target]
        chosen = [s for s in self.samples if getattr(s, column) or (target == "embed" and s.fasta)]
        if target == "tracks":  # those that a second sample would only repeat
            same = {(s.fasta, s.annotation, s.mask, s.memory): s for s in reversed(chosen)}
            chosen = [s for s in chosen if s in same.values()]
        if target == "memorize":
            chosen = list({s.fasta: s for s in reversed(chosen)}.values())[::-1]
        if not chosen:
            raise ValueError(
                f"use.samples: no sample names a {column}, and {target} needs one; list samples in a sheet with the columns sample and {column}"
            )
        if target == "evaluate_variants" and self.score_variants.label is None:
            raise ValueError(
                "use.score_variants.label: not given; name the INFO key that labels the records of the VCF"
            )
        return [f"{s.sample}/{file.format(format=self.embed.format)}" for s in chosen]

    def asked(self) -> list[str]:
        """What all targets make that have something to do; `generate` is not among them: it needs no samples.

        Raises
        ------
        ValueError
            There are no samples.
        """
        if not self.samples:
            raise ValueError(
                "use.samples: there are none; list genomes and files in a sheet with the columns sample, fasta, vcf, ..."
            )
        found = []
        for target in USES:
            try:
                found += self.made(target)
            except ValueError:
                continue
        return found

    def options(self, command: str) -> list[str]:
        """The options of a command line of ``titans-genomics`` that say what the config says."""
        score = self.score_variants.model_dump(include={"context", "after", "share"}) | {"strands": self.strands}
        given: dict[str, Any] = {
            "score-variants": score | {"max_mismatch": self.score_variants.max_mismatch},
            "saturate": score,
            "evaluate-variants": self.score_variants.model_dump(include={"label", "positive", "negative"}),
            "track": self.tracks.model_dump() | {"tracks": ",".join(self.tracks.tracks), "stretch": self.stretch},
            "embed": {
                "per": self.embed.per, "layer": self.embed.layers, "pooling": self.embed.pooling,
                "method": self.embed.picture, "strands": self.strands, "stretch": self.stretch,
            },
            "generate": self.generate.model_dump(exclude={"memory"}) | {"stretch": self.stretch},
            "memorize": {"how": self.memorize.how, "strands": self.strands, "stretch": self.stretch or None},
        }[command]  # fmt: skip
        return [word for key, value in given.items() for word in _option(key, value)]


USES = {
    "score_variants": ("vcf", "scored.vcf.gz"),
    "evaluate_variants": ("vcf", "variants.json"),
    "saturate": ("loci", "saturation.tsv"),
    "tracks": ("fasta", "tracks/tracks.html"),
    "embed": ("sequences", "vectors.{format}"),
    "memorize": ("fasta", "memory.safetensors"),
}
"""Targets of the workflow that use a model on samples: the column that they need, and the file of a sample that they make."""


def _option(key: str, value: Any) -> list[str]:
    """``--key value``; nothing of None and False, the bare name of True, one of each of several values."""
    name = "--" + key.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    if isinstance(value, (tuple, list)):
        return [word for one in value for word in (name, str(one))]
    return [name, str(value)]
