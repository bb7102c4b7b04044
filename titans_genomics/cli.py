"""``titans-genomics``: one sub-command per stage. Each loads the config, calls one function and says what it wrote.

The functions, and torch with them, are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from titans_genomics import __version__
from titans_genomics.config import Config, check_kinds, check_run, load_config

app = typer.Typer(
    name="titans-genomics",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Titans long-term memory models for genomes, from FASTA and BAM to a report.\n\n"
    "The stages, in order: tokenize, train, evaluate, downstream, report. Each reads the YAML config and what the "
    "stages before it left in results/RUN/, and writes there too; --out and its like name other places. "
    "Snakemake runs the same commands and repeats only what a changed setting touches: "
    "snakemake --configfile configs/default.yaml",
)
config_app = typer.Typer(no_args_is_help=True, help="Check a config, show it with every default, or print its schema.")
app.add_typer(config_app, name="config")

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The run's YAML, for example configs/default.yaml.")
]
Store = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="Token store. Default: results/RUN/tokens.")]


@app.callback(invoke_without_command=True)
def _global(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the Python traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def tokenize(
    config: ConfigFile,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Token store to write. Default: results/RUN/tokens.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Sources read at the same time. Default: one per core.")
    ] = None,
) -> None:
    """Sequence files to a token store.

    Reads FASTA, FASTQ, GenBank, EMBL, 2bit, BAM, CRAM or text as the config's `data` section says, divides them into
    train, validation and test, and refuses a split whose held-out sequence stands in train. What is there already and
    still holds is not read again. `titans-genomics inspect` shows what is in the store.

    Example: titans-genomics tokenize --config configs/default.yaml
    """
    settings = load_config(config)
    from titans_genomics.data.store import tokenize as run

    out = out or settings.folder / "tokens"
    for warning in run(settings, out, jobs)["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    _wrote(out)


@app.command("fetch")
def fetch_sources(
    config: ConfigFile,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this source. Default: all that have a URL.")
    ] = None,
) -> None:
    """Download the sources that are named by URL or accession.

    Goes on where an interrupted download stopped, and checks the MD5 checksum where one is known. tokenize does this too.

    Example: titans-genomics fetch --config configs/default.yaml
    """
    settings = load_config(config)
    from titans_genomics.data.fetch import fetch

    names = [entry.label for entry in settings.data.sources]
    if source is not None and source not in names:
        raise ValueError(f"{config}: no source {source!r}; there are {', '.join(names)}")
    for entry in settings.data.sources:
        if entry.url is not None and source in (None, entry.label):
            _wrote(fetch(entry))


@app.command()
def inspect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A token store, such as results/RUN/tokens.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page of plots there (HTML).")] = None,
    dump: Annotated[
        bool,
        typer.Option("--dump", help="Print the sequence of the store as FASTA (text as it was) instead of the report."),
    ] = False,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only this source.")] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="With --dump: only train, validation or test, decoded from its tokens."),
    ] = None,
) -> None:
    """What is in a token store.

    Per source: bases, N, GC, lengths and N50, records kept and left out with the reasons, duplicates, soft-masking; the
    splits; and what the leak gate found. With --dump every record as it was read, soft-masked bases in lower case, or
    with --split the segments of a split, named record:start-end (0-based, half-open).

    Example: titans-genomics inspect results/default/tokens --page store.html
    """
    from titans_genomics.data.inspect import dump_store, inspect_store, text_report

    if split is not None and not dump:
        raise ValueError("--split says what --dump prints: give both, or leave --split out")
    if dump and (as_json or page is not None):
        raise ValueError("--dump prints sequence instead of a report: leave out --json and --page")
    try:
        if dump:
            dump_store(store, sys.stdout.buffer, source, split)
        else:
            found = inspect_store(store, source)
            print(json.dumps(found, indent=2) if as_json else text_report(found))
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any further, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if dump:
            return
    if page is not None:
        from titans_genomics.report.store_page import write_page

        write_page(found, page)
        _wrote(page)


@app.command()
def train(
    config: ConfigFile,
    store: Store = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the trained model. Default: results/RUN/train/MODEL.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="titans, or transformer for the baseline.")] = "titans",
    resume: Annotated[bool, typer.Option(help="Go on from last.ckpt of a run with the same settings.")] = True,
) -> None:
    """Train on a token store.

    Next-token training as the config's `model` and `train` sections say. A run that was killed goes on from its last
    checkpoint when the same command is given again. Leaves best.ckpt, last.ckpt, model.safetensors, metrics.csv,
    train.json and an offline W&B run; send that one with `wandb sync results/RUN/train/titans/wandb/offline-run-*`.

    Example: titans-genomics train --config configs/default.yaml
    """
    if model not in ("titans", "transformer"):
        raise ValueError(f"--model {model}: choose titans or transformer")
    settings = load_config(config)
    from titans_genomics.training import train as run

    out = out or settings.folder / "train" / model
    run(settings, _store(settings, store), out, model=model, resume=resume)
    _wrote(out)


@app.command()
def evaluate(
    config: ConfigFile,
    store: Store = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Trained models; may be repeated. Default: those in results/RUN/train/."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/evaluate/evaluate.json.")
    ] = None,
) -> None:
    """Bits per base on held-out sequence, beside a Markov model.

    Streams the held-out split through each model with its memory carried along, so that memory use does not grow with
    length, and measures the best order-k Markov model, fitted on the same training tokens, beside it.

    Example: titans-genomics evaluate --config configs/default.yaml
    """
    settings = load_config(config)
    from titans_genomics.evaluation import evaluate as run

    out = out or settings.folder / "evaluate" / "evaluate.json"
    names = ["titans", "transformer"] if settings.train.transformer else ["titans"]
    models = {name: settings.folder / "train" / name for name in names}
    if model:
        models = {}
        for entry in model:
            name, equals, folder = entry.partition("=")
            if not (name and equals and folder):
                raise ValueError(f"--model {entry}: expected NAME=DIR, for example titans=results/default/train/titans")
            models[name] = Path(folder)
    run(settings, _store(settings, store), models, out)
    _wrote(out)


@app.command()
def downstream(
    config: ConfigFile,
    store: Store = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Trained model. Default: results/RUN/train/titans.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/downstream/species.json.")
    ] = None,
) -> None:
    """Which species does a sequence come from?

    A linear probe on frozen embeddings of the model, against logistic regression on k-mer counts, on regions that are
    disjoint between train and test; classes, lengths and seeds stand in the config's `downstream` section.

    Example: titans-genomics downstream --config configs/default.yaml
    """
    settings = load_config(config)
    from titans_genomics.tasks.species import species as run

    if not settings.downstream.species:
        raise ValueError(f"{config}: downstream.species is empty; list two or more classes to run this stage")
    out = out or settings.folder / "downstream" / "species.json"
    run(settings, _store(settings, store), model or settings.folder / "train" / "titans", out)
    _wrote(out)


@app.command()
def report(
    config: ConfigFile,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Results of the stages before. Default: results/RUN.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where report.html and metrics.json go. Default: results/RUN.")
    ] = None,
) -> None:
    """One self-contained HTML page, and every number in metrics.json.

    Needs no network to make or to read; send the page by mail as it is.

    Example: titans-genomics report --config configs/default.yaml
    """
    settings = load_config(config)
    from titans_genomics.report import report as run

    folder = folder or settings.folder
    out = out or settings.folder
    run(settings, folder, out)
    _wrote(out / "report.html")


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML config.")]) -> None:
    """Is this config valid, and are its files there and what they should be?

    Of sequence files it looks at formats, ends, headers and indexes; only tokenize reads the files through.
    """
    settings = load_config(file)
    from titans_genomics.data.readers import check_source
    from titans_genomics.data.tokenizers import read_pieces

    check_run(settings)
    if settings.data.tokenizer.path is not None:
        read_pieces(settings.data.tokenizer.path)
    kinds: list[str] = [
        check_source(source, settings.data) if source.url is None or source.path.is_file() else source.kind
        for source in settings.data.sources  # those with a URL may be yet to be downloaded
    ]
    check_kinds(settings.data, kinds)
    for source in settings.downstream.files():
        check_source(source, settings.data)
    typer.echo(f"{file}: valid; results go to {settings.folder}/")


@config_app.command("show")
def config_show(file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML config.")]) -> None:
    """The config as the stages see it, with every default filled in, as YAML."""
    import yaml

    typer.echo(yaml.safe_dump(load_config(file).model_dump(mode="json"), sort_keys=False), nl=False)


@config_app.command("schema")
def config_schema(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")] = None,
) -> None:
    """The JSON schema of a config: every key with its type, unit, range and default; editors complete from it."""
    text = json.dumps(Config.model_json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text)


def _store(settings: Config, store: Path | None) -> Path:
    return store or settings.folder / "tokens"


def _wrote(path: Path) -> None:
    typer.echo(f"wrote {path}", err=True)


def main() -> None:
    """Entry point: what a user can mend is one clear message and exit status 2; anything else keeps its traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        print(f"titans-genomics: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
