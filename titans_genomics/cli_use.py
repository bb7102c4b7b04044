"""What a trained model is for, as sub-commands of ``titans-genomics``: score-variants, evaluate-variants, saturate, track, embed, generate, memorize.

Each opens the model, calls one function and prints what it found as JSON; the functions, and torch with them, are imported inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Model = Annotated[
    Path,
    typer.Option("--model", metavar="RUN", help="Folder of a run, or of one of its models (results/RUN/train/NAME)."),
]
ModelName = Annotated[str, typer.Option("--name", metavar="NAME", help="Which model of the run.")]
Memory = Annotated[
    Path | None,
    typer.Option("--memory", metavar="STATE", help="Begin every reading with a memory that `memorize` saved."),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="cpu or cuda. Default: a GPU if there is one.")
]
Fasta = Annotated[Path, typer.Option("--fasta", metavar="FILE", help="The genome, plain or gzip.")]
Strands = Annotated[Literal["both", "given"], typer.Option("--strands", help="Average both strands, or read as given.")]
Stretch = Annotated[
    int | None,
    typer.Option(
        "--stretch",
        min=0,
        metavar="N",
        help="Tokens after which the memory begins anew; 0: never. Default: as the run was evaluated.",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        min=2,
        metavar="N",
        help="Bases that are read of each locus. Default: up to 8,192, as the run was evaluated.",
    ),
]
After = Annotated[
    int | None,
    typer.Option("--after", min=1, metavar="N", help="How many of them lie behind the allele. Default: up to 512."),
]
Share = Annotated[
    int | None,
    typer.Option(
        "--share", min=1, metavar="N", help="Windows begin at multiples of this. Default: a quarter of the context."
    ),
]


def score_variants(
    model: Model,
    fasta: Fasta,
    vcf: Annotated[Path, typer.Option(metavar="FILE", help="VCF or BCF, plain or bgzipped.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="VCF to write: bgzipped and indexed.")],
    name: ModelName = "titans",
    memory: Memory = None,
    device: Device = None,
    context: Context = None,
    strands: Strands = "both",
    max_mismatch: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of records whose reference allele is not in the genome.")
    ] = 0.01,
    after: After = None,
    share: Share = None,
) -> None:
    """Log-likelihood ratio of every alternative allele in a VCF.

    The records come back in order with INFO fields for the ratio and for the effect on the embedding; what could not be scored says why.

    Example: titans-genomics score-variants --model results/default --fasta genome.fa --vcf calls.vcf.gz --out scored.vcf.gz
    """
    from titans_genomics.use.score_variants import score_variants as run

    _said(run(_open(model, name, memory, device), fasta, vcf, out, context, strands, max_mismatch, after, share))


def evaluate_variants(
    vcf: Annotated[Path, typer.Option(metavar="FILE", help="What score-variants wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON to write.")],
    label: Annotated[str, typer.Option(metavar="KEY", help="INFO key (or column of --table) that labels the records.")],
    positive: Annotated[
        list[str] | None, typer.Option(metavar="VALUE", help="Its value for class 1; may be repeated. Default: 1.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(metavar="VALUE", help="Its value for class 0; may be repeated. Default: 0.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table of labels, where they are not in the VCF.")
    ] = None,
) -> None:
    """AUROC and AUPRC of scored variants against labels, with intervals.

    Example: titans-genomics evaluate-variants --vcf scored.vcf.gz --label CLNSIG --positive Pathogenic --negative Benign --out figures.json
    """
    from titans_genomics.use.score_variants import evaluate_variants as run

    _said(run(vcf, out, label, tuple(positive or ("1",)), tuple(negative or ("0",)), table))


def saturate(
    model: Model,
    fasta: Fasta,
    bed: Annotated[Path, typer.Option(metavar="FILE", help="Loci, BED (0-based, half-open).")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="TSV to write: every substitution of every base.")],
    heat_map: Annotated[Path | None, typer.Option(metavar="FILE", help="SVG of the same.")] = None,
    name: ModelName = "titans",
    memory: Memory = None,
    device: Device = None,
    context: Context = None,
    strands: Strands = "both",
    after: After = None,
    share: Share = None,
) -> None:
    """Saturation mutagenesis: the log-likelihood ratio of every substitution in a few loci, with a heat map.

    Example: titans-genomics saturate --model results/default --fasta genome.fa --bed loci.bed --out loci.tsv --heat-map loci.svg
    """
    from titans_genomics.use.saturate import saturate as run

    _said(run(_open(model, name, memory, device), fasta, bed, out, heat_map, context, strands, after, share))


def track(
    model: Model,
    fasta: Fasta,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write: one bigWig per track, surprising.bed, tracks.html.")
    ],
    tracks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...", help="Of bits, entropy, surprise, alpha, eta, theta. Default: all but theta."
        ),
    ] = None,
    step: Annotated[int, typer.Option(min=1, metavar="N", help="Bases of one value.")] = 1,
    contigs: Annotated[str | None, typer.Option(metavar="NAME,NAME,...", help="Only these contigs.")] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="n|soft|FILE", help="What is left out: N, soft-masked bases, a BED or GFF; may be repeated."
        ),
    ] = None,
    heads: Annotated[Literal["mean", "each"], typer.Option(help="Mean over heads, or a track for each.")] = "mean",
    flatten: Annotated[bool, typer.Option("--flatten", help="Divide out how surprise falls within a stretch.")] = False,
    intervals: Annotated[int, typer.Option(min=0, metavar="N", help="Most surprising intervals in the BED.")] = 100,
    annotation: Annotated[Path | None, typer.Option(metavar="FILE", help="BED or GFF that the page shows.")] = None,
    name: ModelName = "titans",
    memory: Memory = None,
    device: Device = None,
    stretch: Stretch = None,
) -> None:
    """Read whole chromosomes and write what the model says of every base as bigWig: bits, entropy, surprise, gates.

    Streams; a run that was stopped goes on. The page tracks.html needs no network.

    Example: titans-genomics track --model results/default --fasta genome.fa --out tracks
    """
    from titans_genomics.use.track import TRACKS
    from titans_genomics.use.track import track as run

    _said(
        run(
            _open(model, name, memory, device), fasta, out, tuple(tracks.split(",")) if tracks else TRACKS, step,
            contigs.split(",") if contigs else None, mask or (), stretch="run" if stretch is None else stretch or None,
            heads=heads, flatten=flatten, intervals=intervals, annotation=annotation,
        )
    )  # fmt: skip


def embed(
    model: Model,
    sequences: Annotated[Path, typer.Argument(metavar="FILE", help="FASTA, FASTQ, BAM or CRAM.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help=".parquet, .h5 or .h5ad to write.")],
    bed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Intervals of the FASTA instead of its records.")
    ] = None,
    per: Annotated[
        Literal["sequence", "position"], typer.Option(help="One vector per sequence, or per token.")
    ] = "sequence",
    layer: Annotated[
        list[int] | None,
        typer.Option(
            min=0, metavar="N", help="After which block, 0 is the token embedding; may be repeated. Default: the last."
        ),
    ] = None,
    pooling: Annotated[Literal["mean", "last"], typer.Option(help="How a sequence becomes one vector.")] = "mean",
    strands: Strands = "both",
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="SVG of the vectors in the plane.")] = None,
    method: Annotated[str, typer.Option(help="pca, or umap (pip install umap-learn).")] = "pca",
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CRAM: the genome that reads were aligned to.")
    ] = None,
    name: ModelName = "titans",
    memory: Memory = None,
    device: Device = None,
    stretch: Stretch = None,
) -> None:
    """Vectors of sequences, intervals, reads or whole contigs, as Parquet, HDF5 or AnnData.

    Example: titans-genomics embed --model results/default reads.bam --out reads.parquet
    """
    from titans_genomics.use.embed import embed as run

    _said(
        run(
            _open(model, name, memory, device), sequences, out, bed, per, layer or None, pooling, strands, stretch, picture, method, reference,
        )
    )  # fmt: skip


def generate(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="FASTA to write (.gz: gzip).")],
    length: Annotated[int, typer.Option(min=1, metavar="N", help="Bases of each sequence.")] = 10_000,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Sequences.")] = 1,
    prompt: Annotated[
        str | None, typer.Option(metavar="SEQUENCE|FILE", help="Letters or a FASTA to go on from.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1 likelier, above 1 wilder; 0: the likeliest.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Only the likeliest tokens of this share together.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same sequences.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON, with a page beside it: k-mers, GC and ORFs beside a genome's."),
    ] = None,
    genome: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --report: that genome. Default: the run's training split.")
    ] = None,
    name: ModelName = "titans",
    memory: Memory = None,
    device: Device = None,
    stretch: Stretch = None,
) -> None:
    """New sequence, up to millions of bases at constant speed, as FASTA.

    Example: titans-genomics generate --model results/default --length 1000000 --out made.fa --report made.json
    """
    from titans_genomics.use.generate import generate as run
    from titans_genomics.use.spectrum import check, compare

    reader = _open(model, name, memory, device)
    other = genome or reader.folder.parent.parent / "tokens"
    if report is not None:
        check(other, report)
    found = run(reader, out, length, count, prompt, temperature, top_k, top_p, seed, stretch=stretch)
    if report is not None:
        found["report"] = compare(out, other, report)
    _said(found)


def memorize(
    model: Model,
    fasta: Annotated[list[Path], typer.Option("--fasta", metavar="FILE", help="Genome to read; may be repeated.")],
    out: Annotated[Path, typer.Option(metavar="STATE", help="Safetensors file to write.")],
    how: Annotated[
        Literal["mean", "last"], typer.Option(help="Mean of the memories after every stretch, or the last one.")
    ] = "mean",
    strands: Strands = "both",
    test: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another genome: bits per base with and without the memory.")
    ] = None,
    name: ModelName = "titans",
    memory: Memory = None,
    device: Device = None,
    stretch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens after which the memory begins anew.")
    ] = None,
) -> None:
    """Read a genome once and save what the memory learned; `--memory STATE` of the other commands begins there.

    Example: titans-genomics memorize --model results/default --fasta strain.fa --out strain.safetensors --test other_strain.fa
    """
    from titans_genomics.use.memorize import memorize as run

    _said(run(_open(model, name, memory, device), fasta, out, how, stretch, strands, test))


COMMANDS = (score_variants, evaluate_variants, saturate, track, embed, generate, memorize)


def add_to(app: typer.Typer) -> None:
    """Make them commands of ``app``."""
    for command in COMMANDS:
        app.command(command.__name__.replace("_", "-"))(command)


def _open(model: Path, name: str, memory: Path | None, device: str | None) -> Any:
    from titans_genomics.use.reader import open_run

    return open_run(model, name, memory, device)


def _said(found: dict[str, Any]) -> None:
    for warning in found.pop("warnings", ()):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(json.dumps(found, indent=2))
