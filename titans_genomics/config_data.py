"""The ``data`` section of a config: sequence files to tokens; the rest of the schema is in `config`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from titans_genomics.sheet import expand_sources

TEXT_KINDS = ("text", "jsonl", "parquet", "hub")
"""Formats of documents of text; all others hold nucleotides."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of the config in which unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SourceConfig(Section):
    """One sequence file.

    A run may also name its sources by a sample sheet, a pattern, a URL or an NCBI accession: `sheet` turns those into
    sections like this one before they are validated.
    """

    path: Path = Field(
        description="sequence or text file, relative to the working directory; in a config also a pattern (*.fa.gz), an http(s), ftp or s3 URL, an NCBI assembly accession (GCF_000005845.2), or a dataset of the Hugging Face Hub (hf://OWNER/NAME?subset=...&split=...)"
    )
    kind: Literal["auto", "fasta", "fastq", "genbank", "embl", "2bit", "bam", "cram", "text", "jsonl", "parquet"] = (
        Field("auto", description="file format; auto looks at the content (and of JSONL and text at the name)")
    )
    name: Name | None = Field(None, description="name in the token store and the report; default: the file's stem")
    species: str | None = Field(None, description="species, for the report and for data.split.by species")
    assembly: str | None = Field(None, description="assembly or strain, for the report")
    column: str | None = Field(
        None, min_length=1, description="jsonl, parquet, Hub: key or column of the text; null: data.text.column"
    )
    weight: float = Field(
        1.0, ge=0, description="training windows are drawn in proportion to weight x training bases; 0: never"
    )
    reference: Path | None = Field(None, description="CRAM: FASTA of the genome that its reads were aligned to")
    regions: Path | None = Field(None, description="BED or GFF file: use only these stretches of the contigs")
    exclude: Path | None = Field(None, description="BED or GFF file: leave these stretches out (a blacklist)")
    split: Literal["train", "validation", "test"] | None = Field(
        None, description="put the whole source into this split; null: as data.split says"
    )
    md5: str | None = Field(
        None, pattern=r"^[0-9a-fA-F]{32}$", description="MD5 checksum that the file must have (32 hexadecimal digits)"
    )
    url: str | None = Field(
        None,
        description="where path is downloaded from when it is not there; filled in when path is a URL or an accession",
    )

    @property
    def label(self) -> str:
        """The source's name in the store: ``name``, or the file name up to its first dot (that of hidden files aside)."""
        return self.name or self.path.name.lstrip(".").split(".")[0] or self.path.name

    @property
    def side_files(self) -> list[Path]:
        """The files that the source needs beside its sequence file."""
        return [path for path in (self.reference, self.regions, self.exclude) if path is not None]

    @field_validator("md5", mode="before")
    @classmethod
    def _quoted(cls, md5: Any) -> Any:
        if isinstance(md5, int | float):  # its leading zeros are lost
            raise ValueError('YAML reads this checksum as a number: put it in quotes (md5: "0123...")')
        return md5


class TokenizerConfig(Section):
    """What one token is."""

    kind: Literal["nucleotide", "kmer", "bpe", "byte"] = Field(
        "nucleotide",
        description="nucleotide: one token per base; kmer: k bases; bpe: pieces learned from the training split (of genomes or of text); byte: one token per byte of text",
    )
    k: int = Field(6, ge=2, le=7, description="kmer: bases per token")
    overlap: bool = Field(False, description="kmer: one k-mer from every base on instead of one after the other")
    vocab_size: int = Field(4096, ge=16, le=65_536, description="bpe: tokens in the vocabulary, special ones included")
    sample: int = Field(
        10_000_000, ge=1_000, description="bpe: bases (or bytes) of the training split that the pieces are learned from"
    )
    path: Path | None = Field(None, description="bpe: a tokenizer.json to use instead of learning one")

    @model_validator(mode="after")
    def _keys_fit(self) -> TokenizerConfig:
        if self.path is not None and self.kind != "bpe":
            raise ValueError(f"path is for kind bpe, this is {self.kind}")
        if self.overlap and self.kind != "kmer":
            raise ValueError(f"overlap is for kind kmer, this is {self.kind}")
        return self


class TextConfig(Section):
    """What is read of text files."""

    column: str = Field(
        "text", min_length=1, description="jsonl, parquet, Hub: key or column that holds the text of a document"
    )
    encoding: Literal["keep", "replace", "error"] = Field(
        "keep",
        description="bytes that are not UTF-8: keep as they are, replace by U+FFFD, or an error; counted in any case",
    )


class ReadsConfig(Section):
    """Which reads of FASTQ, BAM and CRAM files become part of the token store, and how."""

    min_mapq: int = Field(0, ge=0, le=255, description="least mapping quality of an aligned read (MAPQ, Phred)")
    min_base_quality: int = Field(0, ge=0, le=93, description="bases of lower quality (Phred) become N; 0: off")
    min_length: int = Field(100, ge=1, description="shortest read, bases")
    max_length: int | None = Field(None, ge=1, description="longest read, bases; null: no limit")
    require_flags: int = Field(0, ge=0, le=0xFFFF, description="SAM flag bits that a read must all have")
    exclude_flags: int = Field(0, ge=0, le=0xFFFF, description="SAM flag bits of which a read must have none")
    unmapped: bool = Field(True, description="keep unmapped reads (never when regions are given)")
    secondary: bool = Field(False, description="keep secondary alignments (repeats of the same read)")
    supplementary: bool = Field(False, description="keep supplementary alignments (pieces of the same read)")
    duplicates: bool = Field(False, description="keep reads marked as duplicates")
    qc_fail: bool = Field(False, description="keep reads marked as failing quality control")
    regions: tuple[str, ...] = Field(
        (),
        description="only reads overlapping these regions: contig or contig:start-end (1-based, inclusive, as in samtools); needs an index",
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="share of the molecules that is kept (seeded; mates stay together)"
    )
    coverage: float | None = Field(
        None,
        gt=0,
        description="keep molecules (seeded) up to this many bases per base of the reference; null: no limit",
    )
    strand: Literal["sequenced", "reference"] = Field(
        "sequenced",
        description="sequenced: as the instrument gave them; reference: as aligned, reads of the reverse strand turned over",
    )
    clip: bool = Field(False, description="cut off the soft-clipped ends of aligned reads")
    consensus: bool = Field(
        False, description="BAM, CRAM: instead of the reads the consensus of their pile-up, one sequence per contig"
    )
    min_depth: int = Field(1, ge=1, description="consensus: positions covered by fewer reads become N")

    @model_validator(mode="after")
    def _keep_something(self) -> ReadsConfig:
        if self.max_length is not None and self.min_length > self.max_length:
            raise ValueError(
                f"min_length {self.min_length} is above max_length {self.max_length}: no read would be left"
            )
        switches = {
            "exclude_flags": self.exclude_flags,
            "unmapped false": 0 if self.unmapped else 0x4,
            "secondary false": 0 if self.secondary else 0x100,
            "qc_fail false": 0 if self.qc_fail else 0x200,
            "duplicates false": 0 if self.duplicates else 0x400,
            "supplementary false": 0 if self.supplementary else 0x800,
        }
        for key, excluded in switches.items():
            if both := self.require_flags & excluded:
                raise ValueError(
                    f"require_flags asks for flag {both:#x}, which {key} excludes: no read would be left. Change one of them"
                )
        asked = {
            "regions": bool(self.regions),
            "fraction": self.fraction < 1,
            "coverage": self.coverage is not None,
        }
        for key in (key for key, is_asked in asked.items() if self.consensus and is_asked):
            raise ValueError(f"data.reads.{key} cannot go with data.reads.consensus: leave one of them out")
        return self


class LeaksConfig(Section):
    """Near-duplicate sequence on both sides of a split, looked for on both strands."""

    action: Literal["error", "move", "report", "off"] = Field(
        "error",
        description="above max_share: stop with an error, move the held-out stretches concerned to train, only report, or do not look",
    )
    tool: Literal["sketch", "mmseqs2"] = Field(
        "sketch",
        description="what searches: sketch (shared k-mers; nothing to install) or mmseqs2 (alignments of the program mmseqs, for relatives below 90% identity)",
    )
    max_share: Fraction = Field(
        0.3, description="largest share of a source's held-out bases that may stand near-identically in train"
    )
    k: int = Field(21, ge=15, le=31, description="length of the compared k-mers, bases")
    scale: int = Field(
        16,
        ge=1,
        description="one in so many k-mers is compared (hashed, FracMinHash); of short reads more, of very much sequence fewer",
    )
    min_length: int = Field(500, ge=1, description="shorter matches are not counted, bases")
    min_identity: Fraction = Field(
        0.8, description="mmseqs2: alignments of a smaller share of identical bases are not counted"
    )


class SplitConfig(Section):
    """What is held out for validation and test."""

    by: Literal["block", "contig", "species"] = Field(
        "block", description="what is held out: contiguous blocks of every contig, whole contigs, or whole species"
    )
    reads: Literal["read", "locus"] = Field(
        "read",
        description="reads are held out by molecule, or by the block of the reference that they are aligned to (unaligned ones by molecule)",
    )
    block: int = Field(65_536, ge=100, description="block length, bases")
    validation: Fraction = Field(0.05, description="share of bases (blocks, contigs, species) or reads for validation")
    test: Fraction = Field(0.05, description="share of bases (blocks, contigs, species) or reads for test")
    leaks: LeaksConfig = Field(default_factory=LeaksConfig, description="near-duplicates between train and the rest")

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be below 1, so that something is left to train on")
        return self


def _list_or_sheet(schema: dict[str, Any]) -> None:
    """Sources in the JSON schema: a list, or the path of a sample sheet."""
    listed = {key: schema.pop(key) for key in ("items", "minItems", "type")}
    schema["anyOf"] = [listed, {"type": "string", "minLength": 1}]


class DataConfig(Section):
    """Sequence files to tokens."""

    sources: tuple[SourceConfig, ...] = Field(
        min_length=1,
        description="the sequence files: a list, or the path of a sample sheet (TSV or CSV with a header)",
        json_schema_extra=_list_or_sheet,
    )
    downloads: Path = Field(Path("downloads"), description="folder where files named by URL or accession are kept")
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig, description="what one token is")
    iupac: Literal["n", "random", "error"] = Field(
        "n",
        description="IUPAC codes other than ACGTUN: to N, to a random base that the code allows (seeded), or an error",
    )
    soft_mask: Literal["keep", "ignore", "n"] = Field(
        "keep",
        description="lower-case bases: keep as bases and record the intervals, treat as upper case, or turn into N",
    )
    max_n: Fraction = Field(0.5, description="largest share of N in a source; more is an error")
    n_runs: Literal["keep", "split", "drop"] = Field(
        "keep",
        description="runs of n_run or more N: keep, split (a new document begins behind them) or drop (what lies left and right is joined)",
    )
    n_run: int = Field(100, ge=1, description="shortest run of N that n_runs is about, bases")
    min_contig: int = Field(100, ge=1, description="contigs shorter than this are dropped and counted, bases")
    reads: ReadsConfig = Field(default_factory=ReadsConfig, description="filters for reads")
    text: TextConfig = Field(default_factory=TextConfig, description="text files")
    split: SplitConfig = Field(default_factory=SplitConfig, description="train, validation and test")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, settings: Any, info: ValidationInfo) -> Any:
        if isinstance(settings, dict) and "sources" in settings:
            downloads = Path(str(settings.get("downloads", "downloads")))
            origins = (info.context or {}).get("origins")
            return settings | {"sources": expand_sources(settings["sources"], downloads, origins)}
        return settings

    @model_validator(mode="after")
    def _sources_agree(self) -> DataConfig:
        twice = sorted(name for name, count in Counter(s.label for s in self.sources).items() if count > 1)
        if twice:
            paths = [str(s.path) for s in self.sources if s.label == twice[0]]
            raise ValueError(
                f"two sources share the name {twice[0]!r} ({paths[0]}, {paths[1]}): give each a name of its own (data.sources[].name)"
            )
        files: set[str] = set()
        for source in self.sources:
            file = os.path.realpath(source.path)
            if file in files:
                raise ValueError(
                    f"the same file twice: {source.path}. Name it once, and raise its weight to see it more often"
                )
            files.add(file)
        if self.split.by == "species":
            without = next((s.label for s in self.sources if not s.species and not s.split), None)
            if without is not None:
                raise ValueError(f"data.split.by is species, and source {without!r} has none (data.sources[].species)")
        check_kinds(self, [source.kind for source in self.sources])
        return self


def check_kinds(data: DataConfig, kinds: Sequence[str]) -> None:
    """Whether the formats of the sources go together, and with the settings.

    Parameters
    ----------
    data
        The section.
    kinds
        The format of each of ``data.sources``; ``auto`` where it is not known yet.

    Raises
    ------
    ValueError
        Text beside nucleotides; `data.reads` asking of FASTQ what only aligned reads have; a vocabulary too small for text.
    """
    first: dict[str, SourceConfig] = {}
    for source, kind in zip(data.sources, kinds, strict=True):
        first.setdefault("text" if kind in TEXT_KINDS else kind, source)
    other = next((kind for kind in first if kind not in ("text", "auto")), None)
    if "text" in first and other is not None:
        raise ValueError(
            f"{first['text'].path} is text, {first[other].path} is {other}: one run reads text or nucleotides. Give each a config of its own"
        )
    if "fastq" in first and data.reads.regions:
        raise ValueError(
            f"{first['fastq'].path}: data.reads.regions needs aligned reads (BAM, CRAM), those of a FASTQ are not"
        )
    if "fastq" in first and data.reads.coverage is not None:
        raise ValueError(
            f"{first['fastq'].path}: data.reads.coverage needs aligned reads, to know the length of their reference. Use data.reads.fraction"
        )
    tokenizer = data.tokenizer
    if set(first) == {"text"} and tokenizer.kind == "bpe" and tokenizer.path is None:
        least = 256 + 3 + 1  # bytes, special tokens and one piece
        if tokenizer.vocab_size < least:
            raise ValueError(
                f"data.tokenizer.vocab_size is {tokenizer.vocab_size}: bpe of text needs {least} or more (256 bytes, 3 special tokens, pieces)"
            )
