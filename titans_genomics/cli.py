"""``titans-genomics``: one sub-command per stage. Each loads the config, calls one function and says what it wrote.

The functions, and torch with them, are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from titans_genomics import __version__, cli_use
from titans_genomics.config import (
    TEXT_KINDS,
    Config,
    check_kinds,
    check_run,
    check_vocabulary,
    load_config,
    parse_config,
)

app = typer.Typer(
    name="titans-genomics",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Titans long-term memory models for genomes, from FASTA and BAM to a report.\n\n"
    "The stages, in order: tokenize, train, evaluate, species, downstream, needle, variants, lm-eval, niah, states, forecast, report. Each reads the YAML config "
    "and what the stages before it left in results/RUN/, and writes there too; --out and its like name other places. "
    "Snakemake runs the same commands and repeats only what a changed setting touches: "
    "snakemake --configfile configs/default.yaml",
)
config_app = typer.Typer(no_args_is_help=True, help="Check a config, show it with every default, or print its schema.")
app.add_typer(config_app, name="config")
downstream_app = typer.Typer(
    no_args_is_help=True,
    help="Labelled datasets and benchmark suites: prepare, fit, score, table; or `run` for all of them.",
)
app.add_typer(downstream_app, name="downstream")

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The run's YAML, for example configs/default.yaml.")
]
Store = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="Token store. Default: results/RUN/tokens.")]

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME=DIR", help="Trained models; may be repeated. Default: those in results/RUN/train/."
    ),
]


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
    out = out or _store(settings, None)
    from titans_genomics.data.store import tokenize as run

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
    _store(settings, None)
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
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="titans, transformer for the baseline, or a name in the config's `compare`."
        ),
    ] = "titans",
    resume: Annotated[bool, typer.Option(help="Go on from last.ckpt of a run with the same settings.")] = True,
) -> None:
    """Train on a token store.

    Next-token training as the config's `model` and `train` sections say. A run that was killed goes on from its last
    checkpoint when the same command is given again. Leaves best.ckpt, last.ckpt, model.safetensors, metrics.csv,
    train.json and an offline W&B run; send that one with `wandb sync results/RUN/train/titans/wandb/offline-run-*`.

    Example: titans-genomics train --config configs/default.yaml
    """
    settings = load_config(config)
    if model not in ("titans", "transformer", *settings.compare):
        raise ValueError(f"--model {model}: choose {', '.join(['titans', 'transformer', *settings.compare])}")
    from titans_genomics.training import train as run

    out = out or settings.folder / "train" / model
    run(settings, _store(settings, store), out, model=model, resume=resume)
    _wrote(out)


@app.command()
def evaluate(
    config: ConfigFile,
    store: Store = None,
    model: Models = None,
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
    run(settings, _store(settings, store), _models(settings, model), out)
    _wrote(out)


@app.command()
def species(
    config: ConfigFile,
    store: Store = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Trained model. Default: results/RUN/train/titans.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/species/species.json.")
    ] = None,
) -> None:
    """Which species does a sequence come from?

    A linear probe on frozen embeddings of the model, against logistic regression on k-mer counts, on regions that are
    disjoint between train and test; classes, lengths and seeds stand in the config's `species` section.

    Example: titans-genomics species --config configs/default.yaml
    """
    settings = load_config(config)
    if not settings.species.classes:
        raise ValueError(f"{config}: species.classes is empty; list two or more classes to run this stage")
    from titans_genomics.tasks.species import species as run

    out = out or settings.folder / "species" / "species.json"
    run(settings, _store(settings, store), model or settings.folder / "train" / "titans", out)
    _wrote(out)


Dataset = Annotated[
    str, typer.Option("--dataset", metavar="NAME", help="A dataset of the config, or of a benchmark suite.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="MODEL", help="titans, transformer, a name in `compare`, or none for cnn and kmer."
    ),
]
MethodOption = Annotated[
    str, typer.Option("--method", metavar="METHOD", help="finetune, lora, scratch, probe, knn, cnn or kmer.")
]


@downstream_app.command("list")
def downstream_list() -> None:
    """The benchmark suites, their datasets, and the metric of each."""
    from titans_genomics.suites import SUITES

    for suite in SUITES.values():
        typer.echo(f"{suite.name}: {suite.title}")
        for dataset in suite.datasets:
            typer.echo(f"  {dataset.name} ({dataset.metric})")


@downstream_app.command("prepare")
def downstream_prepare(config: ConfigFile, dataset: Dataset) -> None:
    """Read a labelled dataset, check it, and look for its test sequences in its training set.

    A benchmark's official copy is looked for in the config's downstream.folder, and downloaded when it is not there.

    Example: titans-genomics downstream prepare --config configs/default.yaml --dataset human_nontata_promoters
    """
    settings = load_config(config)
    from titans_genomics.data.labelled import prepare

    out = _dataset_folder(settings, dataset) / "data"
    for warning in prepare(settings, dataset, out)["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    _wrote(out)


@downstream_app.command("intervals")
def downstream_intervals(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Interval lists of GenomicBenchmarks: FOLDER/train/CLASS.csv.gz and test/."
        ),
    ],
) -> None:
    """How many test intervals of a benchmark lie on training intervals, at least by half, and verbatim; as JSON.

    Needs no sequences: the interval lists lie in the folder datasets/NAME of the repository of GenomicBenchmarks.

    Example: titans-genomics downstream intervals genomic_benchmarks/datasets/human_nontata_promoters
    """
    from titans_genomics.data.labelled.intervals import interval_leaks

    typer.echo(json.dumps(interval_leaks(folder), indent=2))


@downstream_app.command("fit")
def downstream_fit(
    config: ConfigFile,
    dataset: Dataset,
    method: MethodOption,
    trial: Annotated[
        str, typer.Option(metavar="TRIAL", help="Learning rate and batch size, such as lr0.001-batch128.")
    ],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the validation draw, new weights and order.")],
    model: ModelOption = "none",
    store: Store = None,
) -> None:
    """Train one model on one dataset: one trial, one seed. Goes on where a killed one stopped.

    Example: titans-genomics downstream fit --config my.yaml --dataset promoters --method finetune --model titans --trial lr0.001-batch128 --seed 0
    """
    settings = load_config(config)
    from titans_genomics.tasks.finetune import fit

    folder = _dataset_folder(settings, dataset)
    trained = settings.folder / "train" / model if method in ("finetune", "lora") else None
    out = folder / method / model / trial / f"seed{seed}"
    fit(settings, _store(settings, store), folder / "data", trained, method, model, trial, seed, out)
    _wrote(out)


@downstream_app.command("score")
def downstream_score(
    config: ConfigFile, dataset: Dataset, method: MethodOption, model: ModelOption = "none", store: Store = None
) -> None:
    """Choose on validation, then read the test set once: scores of every seed, intervals, predictions.

    Fitted methods need all their fits before; probe, knn and kmer are fitted here, on embeddings that are computed once.

    Example: titans-genomics downstream score --config my.yaml --dataset promoters --method probe --model titans
    """
    settings = load_config(config)
    from titans_genomics.tasks.score import score

    folder = _dataset_folder(settings, dataset)
    score(settings, _store(settings, store), folder, settings.folder / "train", method, model)
    _wrote(folder / method / model / "score.json")


@downstream_app.command("table")
def downstream_table(config: ConfigFile, dataset: Dataset) -> None:
    """All rows of one dataset, and the published ones beside them."""
    settings = load_config(config)
    from titans_genomics.tasks.tables import table, text

    folder = _dataset_folder(settings, dataset)
    typer.echo(text(table(settings, folder)))
    _wrote(folder / "table.json")


@downstream_app.command("run")
def downstream_run(
    config: ConfigFile,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Dataset or suite; may be repeated. Default: those of the config."),
    ] = None,
    store: Store = None,
) -> None:
    """Everything for one or more datasets, one step after the other: what Snakemake would do, without it.

    Fits and embeddings that are there with the same settings are not repeated.

    Example: titans-genomics downstream run --config configs/default.yaml --dataset genomic_benchmarks
    """
    settings = load_config(config)
    from titans_genomics.suites import find
    from titans_genomics.tasks.run import run

    own = [entry.key for entry in settings.downstream.datasets]
    names = [
        n for name in dataset or settings.datasets for n in ([name] if name in own else [d.name for d in find(name)])
    ]
    if not names:
        raise ValueError(
            f"{config}: downstream names no dataset; list some under downstream.datasets or .suites, or give --dataset"
        )
    for name in dict.fromkeys(names):
        typer.echo(run(settings, name, _store(settings, store)))


@app.command()
def needle(
    config: ConfigFile,
    store: Store = None,
    model: Models = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/needle/needle.json.")
    ] = None,
) -> None:
    """Needle in a genome: how far back is something that was read once still recalled?

    A motif with a payload is planted in held-out sequence; after 1 kb, 16 kb, 1 Mb ... the motif is shown again and the payload
    asked for. Streams at constant memory; lengths and depths stand in the config's `needle` section.

    Example: titans-genomics needle --config configs/default.yaml
    """
    settings = load_config(config)
    if not settings.needle.lengths:
        raise ValueError(
            f"{config}: needle.lengths is empty; give lengths in bases, such as [1024, 16384], to run this stage"
        )
    from titans_genomics.tasks.needle import needle as run

    out = out or settings.folder / "needle" / "needle.json"
    run(settings, _store(settings, store), _models(settings, model), out)
    _wrote(out)


@app.command()
def recall(
    config: ConfigFile,
    store: Store = None,
    model: Models = None,
    distances: Annotated[
        str, typer.Option(metavar="N,N,...", help="Bases between the two copies.")
    ] = "64,256,1024,4096,16384,65536",
    trials: Annotated[int, typer.Option(min=2, metavar="N", help="Pairs of windows per distance.")] = 32,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/needle/recall_bench.json.")
    ] = None,
) -> None:
    """The public benchmark recall-bench: how far back does an exact earlier copy of a sequence help?

    Runs the package (pip install recall-bench) on held-out sequence of the run.

    Example: titans-genomics recall --config configs/default.yaml --distances 64,1024
    """
    settings = load_config(config)
    from titans_genomics.tasks.recall import recall as run

    try:
        gaps = tuple(int(gap) for gap in distances.split(","))
    except ValueError:
        raise ValueError(
            f"--distances {distances}: numbers of bases with commas between them, such as 64,1024"
        ) from None
    out = out or settings.folder / "needle" / "recall_bench.json"
    run(settings, _store(settings, store), _models(settings, model), out, gaps, trials)
    _wrote(out)


@app.command()
def variants(
    config: ConfigFile,
    store: Store = None,
    model: Models = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/variants/variants.json.")
    ] = None,
) -> None:
    """Labelled sequence variants, zero-shot: the log-likelihood of the alternative minus that of the reference.

    Sets of variants stand in the config's `variants` section: columns ref, alt and label.

    Example: titans-genomics variants --config configs/default.yaml
    """
    settings = load_config(config)
    if not settings.variants.sets:
        raise ValueError(
            f"{config}: variants.sets is empty; list files with columns ref, alt and label to run this stage"
        )
    from titans_genomics.tasks.variants import variants as run

    out = out or settings.folder / "variants" / "variants.json"
    run(settings, _store(settings, store), _models(settings, model), out)
    _wrote(out)


@app.command("lm-eval")
def lm_eval_tasks(
    config: ConfigFile,
    store: Store = None,
    model: Models = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...", help="Tasks of the harness. Default: those of the config's `lm_eval` section."
        ),
    ] = None,
    include: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with task files of one's own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Documents per task at most.")] = None,
    fewshot: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Examples before each question. Default: as the task has it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: results/RUN/lm_eval/lm_eval.json.")
    ] = None,
) -> None:
    """Tasks of the lm-evaluation-harness, for models of text.

    Documents are streamed through the memory, from the first token to the last; nothing is cut into windows. Needs lm-eval (pip install 'titans-genomics[lm-eval]').

    Example: titans-genomics lm-eval --config configs/text_kjv.yaml --tasks wikitext,lambada_openai,piqa,hellaswag,winogrande,arc_easy,arc_challenge,social_iqa,boolq
    """
    settings = load_config(config)
    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    given = {"tasks": names, "include": include, "limit": limit, "fewshot": fewshot}
    asked = settings.lm_eval.model_dump(mode="json") | {k: v for k, v in given.items() if v is not None}
    settings = parse_config(settings.model_dump(mode="json") | {"lm_eval": asked}, f"{config} with these options")
    store, models = _store(settings, store), _models(settings, model)
    from titans_genomics.tasks.lm_eval import lm_eval as run

    out = out or settings.folder / "lm_eval" / "lm_eval.json"
    run(settings, store, models, out)
    _wrote(out)


OneModel = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Only this model of the run. Default: all, and their table."),
]
OneSeed = Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="Only this seed. Default: all.")]
Together = Annotated[
    bool, typer.Option("--table", help="Measure nothing: put what was measured of all models in one table.")
]


@app.command()
def niah(config: ConfigFile, store: Store = None, model: OneModel = None, table: Together = False) -> None:
    """Needle in a haystack (RULER's S-NIAH) and BABILong, for models of text.

    Trains the models on the task first where the config's `niah` section says so; then streams haystacks of any length through them,
    at constant memory, and asks for the needle.

    Example: titans-genomics niah --config configs/niah.yaml
    """
    _all_in_table(table, model=model)
    settings = load_config(config)
    if not settings.niah.asked:
        raise ValueError(f"{config}: niah.kinds is empty; name kinds of needles (pk, n, w) to run this stage")
    store, folder = _store(settings, store), settings.folder / "niah"
    from titans_genomics.tasks.niah import niah as run
    from titans_genomics.tasks.niah import table as put_together

    for name in () if table else _asked(model, settings.models):
        trained = settings.folder / "train" / name if settings.niah.start == "trained" else None
        run(settings, store, name, trained, folder / name)
        _wrote(folder / name / "result.json")
    if model is None:
        put_together(settings, store, folder)
        _wrote(folder / "niah.json")


@app.command()
def states(config: ConfigFile, model: OneModel = None, seed: OneSeed = None, table: Together = False) -> None:
    """State tracking: can a model follow the product of permutations, beyond the lengths it was trained on?

    Trains and measures the run's models on the word problem of a group, as the config's `states` section says. Needs no tokens.

    Example: titans-genomics states --config configs/states_s5.yaml
    """
    _all_in_table(table, model=model, seed=seed)
    settings = load_config(config)
    if settings.states.group is None:
        raise ValueError(f"{config}: states.group is not set; name a group, such as s5, to run this stage")
    folder = settings.folder / "states"
    from titans_genomics.tasks.states import one
    from titans_genomics.tasks.states import table as put_together

    fits = settings.fits("states")
    for name in () if table else _asked(model, list(fits)):
        for number in fits[name] if seed is None else (seed,):
            one(settings, name, number, folder)
            _wrote(folder / name / f"seed{number}" / "result.json")
    if model is None and seed is None:
        put_together(settings, folder)
        _wrote(folder / "states.json")


@app.command("forecast")
def forecast_series(config: ConfigFile, model: OneModel = None, seed: OneSeed = None, table: Together = False) -> None:
    """Forecasting: many series side by side, continuous in and out, beside the last value and DLinear.

    Trains and measures the run's models at each horizon of the config's `forecast` section. Needs no tokens.

    Example: titans-genomics forecast --config configs/forecast_weather.yaml
    """
    _all_in_table(table, model=model, seed=seed)
    settings = load_config(config)
    if settings.forecast.path is None:
        raise ValueError(f"{config}: forecast.path is not set; name a CSV with a column of times to run this stage")
    folder = settings.folder / "forecast"
    from titans_genomics.tasks.forecast import forecast as run
    from titans_genomics.tasks.forecast import table as put_together

    for name in () if table else _asked(model, list(settings.fits("forecast"))):
        run(settings, folder, name, seed)
        _wrote(folder / name)
    if model is None and seed is None:
        put_together(settings, folder)
        _wrote(folder / "forecast.json")


@app.command()
def export(
    config: ConfigFile,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT", help="Folder of a trained model. Default: results/RUN/train/titans."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. Default: results/RUN/export/MODEL.")
    ] = None,
    store: Store = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Figures for the card. Default: results/RUN/evaluate/evaluate.json, if it is there."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Licence of the weights, for the card, such as apache-2.0.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Language of the text, for the card, such as en.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also upload it to the Hugging Face Hub (log in first).")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everyone to see.")] = False,
) -> None:
    """A trained model for Hugging Face transformers: weights, tokenizer, settings of generation and a model card.

    In Python, `import titans_genomics.hf` and then AutoModelForCausalLM.from_pretrained(DIR), AutoTokenizer.from_pretrained(DIR).

    Example: titans-genomics export results/text_kjv/train/titans --config configs/text_kjv.yaml
    """
    settings = load_config(config)
    checkpoint = checkpoint or settings.folder / "train" / "titans"
    from titans_genomics.hf.export import export as run

    out = out or settings.folder / "export" / checkpoint.name
    run(
        checkpoint, _store(settings, store), out,
        run=settings.run, evaluation=evaluation, licence=licence, language=language, push=push, private=not public,
    )  # fmt: skip
    _wrote(out)


@app.command("ablations")
def ablations_table(config: ConfigFile) -> None:
    """All models of a run in one table, beside the paper's Table 5: what each part of Titans is worth.

    Reads what train, evaluate, downstream and needle left of the models in the config's `compare` section.

    Example: titans-genomics ablations --config configs/ablations.yaml
    """
    settings = load_config(config)
    from titans_genomics.tasks.ablations import ablations, text

    typer.echo(text(ablations(settings, settings.folder)))
    _wrote(settings.folder / "ablations.json")


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


@app.command("results")
def results_page(
    config: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="The YAML of one or more finished runs.")],
    page: Annotated[
        Path, typer.Option(metavar="FILE", help="Markdown page with the marks results:begin and results:end.")
    ] = Path("docs/results.md"),
) -> None:
    """Put the results of finished runs on a page of Markdown, to be kept with the code.

    What each run measured is kept beside the page as JSON, in the folder of the page's name; the page shows all that lie there.

    Example: titans-genomics results configs/benchmarks.yaml configs/ablations.yaml
    """
    from titans_genomics.report.results_page import collect_results, write_page

    kept = page.with_suffix("")
    for path in config:
        settings = load_config(path)
        out = kept / f"{settings.run}.json"
        collect_results(path, settings, settings.folder, out)
        _wrote(out)
    write_page(sorted(kept.glob("*.json")), page)
    _wrote(page)


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML config.")]) -> None:
    """Is this config valid, and are its files there and what they should be?

    Of sequence files it looks at formats, ends, headers and indexes; only tokenize reads the files through.
    """
    settings = load_config(file)
    from titans_genomics.data.readers import check_source
    from titans_genomics.data.tokenizers import read_pieces

    check_run(settings)
    if settings.data is None:
        typer.echo(f"{file}: valid; results go to {settings.folder}/")
        return
    if settings.data.tokenizer.path is not None:
        check_vocabulary(settings, "data.tokenizer.path", read_pieces(settings.data.tokenizer.path).vocab_size)
    kinds: list[str] = [
        check_source(source, settings.data) if source.url is None or source.path.is_file() else source.kind
        for source in settings.data.sources  # those with a URL may be yet to be downloaded
    ]
    check_kinds(settings.data, kinds)
    settings.train.turned(text=any(kind in TEXT_KINDS for kind in kinds))
    for source in settings.species.files():
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
    if settings.data is None:
        raise ValueError("the config has no section data, which this stage reads; list files under data.sources")
    return store or settings.folder / "tokens"


def _models(settings: Config, given: list[str] | None) -> dict[str, Path]:
    """Folders of trained models by name: those of the run, or NAME=DIR as given."""
    if not given:
        return {name: settings.folder / "train" / name for name in settings.models}
    models = {}
    for entry in given:
        name, equals, folder = entry.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--model {entry}: expected NAME=DIR, for example titans=results/default/train/titans")
        models[name] = Path(folder)
    return models


def _all_in_table(table: bool, **given: str | int | None) -> None:
    """Raise ValueError when --table is asked for with a model or seed."""
    for name, value in given.items():
        if table and value is not None:
            raise ValueError(f"--table puts all models and seeds together: leave out --{name} {value}, or --table")


def _asked(model: str | None, known: Sequence[str]) -> list[str]:
    """The model that was asked for, or all; ValueError when there is no such model."""
    if model is not None and model not in known:
        raise ValueError(f"--model {model}: choose {', '.join(known)}")
    return [model] if model is not None else list(known)


def _dataset_folder(settings: Config, dataset: str) -> Path:
    """Where everything of a dataset is written; ValueError when there is no such dataset."""
    from titans_genomics.suites import find

    if dataset not in [entry.key for entry in settings.downstream.datasets]:
        found = find(dataset)
        if [entry.name for entry in found] != [dataset]:
            raise ValueError(f"--dataset {dataset}: is a suite; name one of {', '.join(entry.name for entry in found)}")
    return settings.folder / "downstream" / dataset


def _wrote(path: Path) -> None:
    typer.echo(f"wrote {path}", err=True)


cli_use.add_to(app)


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
