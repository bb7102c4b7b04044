"""The workflow: clean, honest about what has to run again, and the default run itself on real data."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from running import BIN, ROOT, jobs, ran, snakemake

from titans_genomics.config import TARGETS, load_config
from titans_genomics.config_downstream import FITTED
from titans_genomics.config_use import USES
from titans_genomics.tasks.plan import plan

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory of its own, with the real data where the configs look for it."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "resources").symlink_to(ROOT / "resources")
    return folder


# ------------------------------------------------------------------------------------------- its form


def test_lint(place):
    assert "good condition" in snakemake(place, "--lint", config=ROOT / "configs" / "tiny.yaml")


def test_format():
    rules = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    subprocess.run([BIN / "snakefmt", "--check", *rules], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_dry_run_of_every_shipped_config(place, config):
    said = snakemake(place, "--dry-run", config=config)
    tokens = {"tokenize", "inspect", "train", "evaluate"}
    trained, read = load_config(config).trained, "data" in yaml.safe_load(config.read_text())
    assert (tokens if trained else {"niah"} if read else {"learn", "learned"}) | {"report"} <= ran(said)
    assert read or not tokens & ran(said)
    assert f"results/{config.stem}/report.html" in said
    assert not (place / "results").exists()


def test_rules_carry_log_benchmark_threads_and_resources(place):
    asked = ("needle={lengths: [1024]}", "variants={sets: [{path: resources/ecoli_variants.csv.gz}]}")
    targets = ("all", "human_nontata_promoters", "--config", *asked)
    said = snakemake(place, "--dry-run", *targets, config=ROOT / "configs" / "gpu.yaml")
    measuring = ("train", "evaluate", "species", "needle", "variants", "fit", "score")
    for rule in ("tokenize", "prepare", "report", *measuring):
        job = jobs(said, rule)[0]
        assert "log: results/gpu/logs/" in job["text"]
        assert "benchmark: results/gpu/benchmarks/" in job["text"]
        if rule in measuring:
            assert rule == "fit" or "threads: 2" in job["text"]
            assert job["gpu"] == "1"
            assert "mem_mb" in job
    assert "gpu=0" in snakemake(place, "--dry-run", config=ROOT / "configs" / "default.yaml")


SUITES = {"genomic_benchmarks": 8, "nucleotide_transformer": 18, "nucleotide_transformer_revised": 18, "gue": 28}


@pytest.mark.parametrize(("suite", "datasets"), SUITES.items(), ids=SUITES)
def test_dry_run_of_a_suite(place, suite, datasets):
    few = "downstream={methods: [cnn, kmer], seeds: [0]}"
    said = snakemake(place, "--dry-run", suite, "--config", few, config=ROOT / "configs" / "benchmarks.yaml")
    assert ran(said) == {"prepare", "fit", "score", "table", suite}
    names = {job["dataset"] for job in jobs(said, "table")}
    assert len(names) == datasets
    for rule, count in (("prepare", 1), ("fit", 1), ("score", 2), ("table", 1)):
        found = [job["dataset"] for job in jobs(said, rule)]
        assert sorted(found) == sorted([*names] * count)


def test_dry_run_of_one_dataset_by_its_name(place):
    """Every trial and seed of every model is a job of its own, and the models are trained before."""
    config = ROOT / "configs" / "benchmarks.yaml"
    said = snakemake(place, "--dry-run", "human_nontata_promoters", config=config)
    settings = load_config(config)
    assert ran(said) == {"tokenize", "train", "prepare", "fit", "score", "table", "human_nontata_promoters"}
    assert {job["dataset"] for job in jobs(said, "score")} == {"human_nontata_promoters"}
    rows = {(job["method"], job["model"]) for job in jobs(said, "score")}
    assert rows == set(plan(settings, "human_nontata_promoters"))
    assert {job["model"] for job in jobs(said, "train")} == {"titans", "transformer", "mac", "mag", "mal"}
    fits = [(job["method"], job["model"], job["trial"], int(job["seed"])) for job in jobs(said, "fit")]
    downstream = settings.downstream
    assert sorted(fits) == sorted(
        (method, model, trial, seed)
        for method, model in rows
        if method in FITTED
        for trial in downstream.trials(method)
        for seed in downstream.seeds
    )


def test_dry_runs_of_what_the_shipped_configs_measure(place):
    said = snakemake(place, "--dry-run", "downstream", config=ROOT / "configs" / "benchmarks.yaml")
    assert {job["dataset"] for job in jobs(said, "table")} == {"splice_junctions", "coding_chlamydia"}
    assert not {"evaluate", "report"} & ran(said)
    said = snakemake(place, "--dry-run", "ablations", config=ROOT / "configs" / "ablations.yaml")
    settings = load_config(ROOT / "configs" / "ablations.yaml")
    assert sorted(job["model"] for job in jobs(said, "train")) == sorted(settings.models)
    assert {"evaluate", "table", "needle", "ablations"} <= ran(said)
    assert "output: results/ablations/ablations.json" in said


@pytest.mark.parametrize("profile", sorted((ROOT / "workflow" / "profiles").iterdir()), ids=lambda path: path.name)
def test_profiles(place, profile):
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    assert "code" not in settings["rerun-triggers"], "new code must not throw away hours of training by itself"
    snakemake(place, "--dry-run", "--workflow-profile", str(profile), config=ROOT / "configs" / "tiny.yaml")


# -------------------------------------------------------------------------- a user's mistakes, at once


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param("train={learning_rate: 0.1}", "train.learning_rate: unknown key; known here: accelerator", id="key"),
        pytest.param("trian={}", "trian: unknown key", id="section"),
        pytest.param("model={variant: mamba}", "'gated_deltanet' or 'diagonal' (is 'mamba')", id="value"),
        pytest.param("data={sources: [{path: gone.fa}]}", "data.sources.0.path: gone.fa does not exist", id="file"),
        pytest.param("downstream={datasets: [{path: gone.csv}]}", "downstream.datasets.0.path: gone.csv does not exist", id="dataset"),
        pytest.param("downstream={datasets: [{path: train.csv}]}", "train.csv: 'train' is the name of a stage of the workflow", id="dataset named as a rule"),
        pytest.param("downstream={suites: [genomic_benchmark]}", "no suite or dataset 'genomic_benchmark'. Near it: genomic_benchmarks", id="suite"),
        pytest.param("downstream={models: [mac]}", "downstream.models: 'mac' is not a model of this run (titans, transformer)", id="model"),
        pytest.param("compare={mac: {varient: mac}}", "compare.mac.varient: unknown key", id="compare"),
    ],
)  # fmt: skip
def test_a_wrong_config_stops_before_the_dag(place, settings, said):
    species = "species={classes: []}"
    output = snakemake(place, "--config", settings, species, config=ROOT / "configs" / "tiny.yaml", check=False)
    assert said in output
    assert "Building DAG" not in output
    assert not (place / "results").exists()


def test_a_bad_file_of_the_last_stage_stops_before_the_first(place):
    (place / "protein.fa").write_text(">p\nMKLVWEQRPFFYHILKDESTMKLVWEQRPFFYHILKDEST\n")
    classes = "species={classes: [{species: a, source: hpylori}, {species: b, path: protein.fa}]}"
    said = snakemake(place, "--config", classes, config=ROOT / "configs" / "tiny.yaml", check=False)
    assert "protein.fa: contig 'p'" in said
    assert not (place / "results").exists()


def test_no_config_names_one(place):
    said = snakemake(place, check=False)
    assert "--configfile configs/default.yaml" in said


# ------------------------------------------------------------------------------ what has to run again


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of a few kilobases and five steps, and its config."""
    folder = tmp_path_factory.mktemp("small")
    bases = "".join("ACGT"[(i * i // 7 + i // 3) % 4] for i in range(24_000))
    (folder / "genome.fa").write_text(">one\n" + bases[:16_000] + "\n>two\n" + bases[16_000:] + "\n")
    config = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    config |= {"run": "small", "species": {}}
    config["data"]["sources"] = [{"path": "genome.fa"}]
    config["data"]["split"]["block"] = 1000
    config["train"] |= {"transformer": False, "context": 64, "batch_size": 2, "wandb": {"mode": "disabled"}}
    config["evaluate"]["context"] = 64
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    assert ran(snakemake(folder, config=folder / "small.yaml")) == {
        "tokenize",
        "inspect",
        "train",
        "evaluate",
        "report",
    }
    return folder


def test_everything_is_under_the_name_of_the_run(small):
    assert {path.name for path in (small / "results").iterdir()} == {"small"}
    made = {path.name for path in (small / "results" / "small").iterdir()}
    assert made == {
        "settings",
        "tokens",
        "tokens.done",
        "data.html",
        "data.json",
        "train",
        "evaluate",
        "logs",
        "benchmarks",
        "metrics.json",
        "report.html",
    }
    numbers = json.loads((small / "results" / "small" / "data.json").read_text())
    assert numbers["sources"][0]["bases"] == 24_000
    for log in ("tokenize", "train_titans", "evaluate", "report"):
        assert (small / "results" / "small" / "logs" / f"{log}.log").stat().st_size


def test_snakemake_report(small):
    snakemake(small, "--report", "workflow.html", config=small / "small.yaml")
    assert "report.html" in (small / "workflow.html").read_text()


def test_what_runs_again(small):
    config = small / "small.yaml"
    assert "Nothing to be done" in snakemake(small, config=config)

    def would(*settings):
        return ran(snakemake(small, "--dry-run", "--config", *settings, config=config))

    assert would("train={lr: 0.001}") == {"train", "evaluate", "report"}
    assert would("model={chunk: 16}") == {"train", "evaluate", "report"}
    assert would("evaluate={markov: [1, 2]}") == {"evaluate", "report"}
    assert would("report={title: A better title}") == {"report"}
    assert would("data={iupac: random}") == {"tokenize", "inspect", "train", "evaluate", "report"}
    assert would("seed=2") == {"tokenize", "inspect", "train", "evaluate", "report"}


@pytest.fixture(scope="module")
def labelled(small, tmp_path_factory):
    """A copy of that run with a labelled dataset, and the table made of it by its name."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("labelled") / "run", symlinks=True)
    lines = [
        f"{'ACGTTGCA' * (4 + i % 5)}{'GC' if i % 2 else 'TA'}{'ACGT'[i % 4] * (i % 7)},{'ab'[i % 2]}" for i in range(80)
    ]
    for name in ("marks", "more"):
        (folder / f"{name}.csv").write_text("\n".join(["sequence,label", *lines]) + "\n")
    config = yaml.safe_load((folder / "small.yaml").read_text())
    config["downstream"] = {
        "datasets": [{"path": "marks.csv"}],
        "methods": ["finetune", "kmer"],
        "models": ["titans"],
        "seeds": [0],
        "finetune": {"lr": [0.01, 0.001], "batch_size": [16], "epochs": 1},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    said = snakemake(folder, "marks", config=folder / "small.yaml")
    assert ran(said) == {"prepare", "fit", "score", "table", "marks"}
    assert len(jobs(said, "fit")) == len(jobs(said, "score")) == 2
    return folder


def test_a_dataset_by_its_name(labelled):
    made = labelled / "results" / "small" / "downstream" / "marks"
    table = json.loads((made / "table.json").read_text())
    assert {(row["method"], row["model"]) for row in table["rows"]} == {("finetune", "titans"), ("kmer", "none")}
    finetuned = next(row for row in table["rows"] if row["method"] == "finetune")
    assert {trial["trial"] for trial in finetuned["trials"]} == {"lr0.01-batch16", "lr0.001-batch16"}
    for name in ("prepare", "finetune_titans_lr0.01-batch16_seed0", "kmer_none_score", "table"):
        assert (labelled / "results" / "small" / "logs" / "downstream" / "marks" / f"{name}.log").stat().st_size
    assert "Nothing to be done" in snakemake(labelled, "marks", config=labelled / "small.yaml")


def test_what_runs_again_of_a_dataset(labelled):
    config = labelled / "small.yaml"

    def would(*settings, target="marks"):
        said = snakemake(labelled, target, "--dry-run", "--config", *settings, config=config)
        return said, ran(said) - {"marks", "downstream"}

    def rows(said, rule):
        return sorted((job["method"], job["model"]) for job in jobs(said, rule))

    said, rules = would("train={lr: 0.001}")
    assert rules == {"train", "fit", "score", "table"}
    assert rows(said, "fit") == [("finetune", "titans")] * 2
    assert rows(said, "score") == [("finetune", "titans")]
    said, rules = would("downstream={methods: [finetune, kmer, probe]}")
    assert rules == {"score", "table"}
    assert rows(said, "score") == [("probe", "titans")]
    said, rules = would("downstream={finetune: {lr: [0.01, 0.001, 0.1]}}")
    assert [job["trial"] for job in jobs(said, "fit")] == ["lr0.1-batch16"]
    assert would("downstream={bootstrap: 100}")[1] == {"score", "table"}
    assert would("downstream={pooling: last}")[1] == {"fit", "score", "table"}
    assert would("downstream={validation: 0.2}")[1] >= {"fit", "score", "table"}


def test_another_model_is_trained_and_measured_and_the_others_stay(labelled):
    compare = ("compare={mag: {variant: mag, window: 32}}", "downstream={models: [titans, mag]}")
    said = snakemake(labelled, "all", "--dry-run", "--config", *compare, config=labelled / "small.yaml")
    assert ran(said) == {"train", "evaluate", "fit", "score", "table", "ablations", "report"}
    assert [job["model"] for job in jobs(said, "train")] == ["mag"]
    assert {job["model"] for job in jobs(said, "fit")} == {"mag"}
    assert [(job["method"], job["model"]) for job in jobs(said, "score")] == [("finetune", "mag")]


def test_another_dataset_leaves_the_first_one_as_it_is(labelled):
    both = "downstream={datasets: [{path: marks.csv}, {path: more.csv}]}"
    said = snakemake(labelled, "downstream", "--dry-run", "--config", both, config=labelled / "small.yaml")
    for rule in ("prepare", "fit", "score"):
        assert {job["dataset"] for job in jobs(said, rule)} == {"more"}
    assert "more" in {job["dataset"] for job in jobs(said, "table")}


def test_a_dataset_of_any_name(labelled):
    own = "downstream={datasets: [{path: marks.csv, name: my-own.set_2}]}"
    said = snakemake(labelled, "my-own.set_2", "--dry-run", "--config", own, config=labelled / "small.yaml")
    assert {job["dataset"] for job in jobs(said, "table")} == {"my-own.set_2"}


def test_names_of_rules_are_not_free_for_datasets():
    rules = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    names = {name for path in rules for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)}
    assert names | set(USES) == set(TARGETS)  # those of USES are made in a loop


def test_a_changed_file_is_prepared_again(labelled):
    (labelled / "more.csv").write_text((labelled / "marks.csv").read_text().replace(",a", ",c"))
    own = "downstream={datasets: [{path: more.csv, name: marks}]}"
    said = snakemake(labelled, "marks", "--dry-run", "--config", own, config=labelled / "small.yaml")
    assert ran(said) == {"prepare", "fit", "score", "table", "marks"}


def test_a_new_learning_rate_trains_again_and_does_not_tokenise_again(small):
    config = small / "small.yaml"
    tokens = (small / "results" / "small" / "tokens" / "manifest.json").stat()
    assert ran(snakemake(small, "--config", "train={lr: 0.001}", config=config)) == {"train", "evaluate", "report"}
    assert (small / "results" / "small" / "tokens" / "manifest.json").stat().st_mtime_ns == tokens.st_mtime_ns
    metrics = json.loads((small / "results" / "small" / "metrics.json").read_text())
    assert metrics["config"]["train"]["lr"] == 0.001
    assert metrics["train"]["titans"]["steps"] == 5
    assert "Nothing to be done" in snakemake(small, "--config", "train={lr: 0.001}", config=config)


def test_a_new_tokeniser_tokenises_again(small):
    config = small / "small.yaml"
    said = snakemake(small, "--config", "data={soft_mask: ignore}", "train={lr: 0.001}", config=config)
    assert ran(said) == {"tokenize", "inspect", "train", "evaluate", "report"}


def test_a_failed_tokenise_keeps_the_old_store_and_is_tried_again(small):
    config, store = small / "small.yaml", small / "results" / "small" / "tokens"
    (small / "protein.fa").write_text(">p\nMKLVWEQRPFFYHILKDESTMKLVWEQRPFFYHILKDEST\n")
    before = (store / "manifest.json").read_text()
    wrong = "data={sources: [{path: protein.fa}]}"
    for _ in range(2):
        said = snakemake(small, "--config", wrong, config=config, check=False)
        assert "protein.fa" in said
        assert ran(said) == {"tokenize"}
        assert (store / "manifest.json").read_text() == before
    assert "tokenize" in ran(snakemake(small, "--dry-run", config=config))


# ------------------------------------------------------------------------------------ the default run


@pytest.mark.slow
def test_default_run_beats_markov_on_genome_it_never_saw(place):
    snakemake(place, config=ROOT / "configs" / "default.yaml")
    folder = place / "results" / "default"
    metrics = json.loads((folder / "metrics.json").read_text())
    bits = metrics["bits_per_base"]["ecoli"]
    assert bits["titans"] < bits["markov"] < bits["uniform"] == 2.0
    reads = next(source for source in metrics["data"]["sources"] if source["kind"] == "bam")
    assert reads["kept"] > 1000
    assert {"secondary alignment", "supplementary alignment"} <= set(reads["dropped"])
    assert metrics["train"]["titans"]["skipped_steps"] == 0
    config = load_config(ROOT / "configs" / "default.yaml")
    for name in config.datasets:
        table = metrics["downstream"][name]
        assert {(row["method"], row["model"]) for row in table["rows"]} == set(plan(config, name))
        for row in table["rows"]:
            low, high = row["test"][table["metric"]]["ci95"]
            assert low < row["test"][table["metric"]]["mean"] < high
    assert set(metrics["needle"]["models"]) == set(config.models)
    assert set(metrics["variants"]["sets"]) == {entry.key for entry in config.variants.sets}
    species = metrics["species"]
    assert len(species["classes"]) == 4
    assert species["lengths"][0]["methods"]["titans"]["accuracy"] > 2 * species["chance"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 6
    assert list((folder / "train" / "titans" / "wandb").glob("wandb/offline-run-*")) or list(
        (folder / "train" / "titans" / "wandb").glob("offline-run-*")
    )
    assert "Nothing to be done" in snakemake(place, config=ROOT / "configs" / "default.yaml")
