"""The workflow: clean, honest about what has to run again, and the default run itself on real data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BIN = Path(sys.executable).parent


def snakemake(folder, *arguments, config=None, check=True):
    """Run Snakemake in ``folder``, with the repository's Snakefile; returns all that it said."""
    command = [BIN / "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    if config:
        command += ["--configfile", config]
    environment = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    done = subprocess.run([*map(str, command), *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if check:
        assert done.returncode == 0, said
    else:
        assert done.returncode != 0, said
    return said


def ran(said):
    """The rules that were executed, settings and all left out."""
    return set(re.findall(r"^(?:local)?rule (\w+):$", said, re.M)) - {"settings", "all"}


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
    assert {"tokenize", "inspect", "train", "evaluate", "report"} <= ran(said)
    assert f"results/{config.stem}/report.html" in said
    assert not (place / "results").exists()


def test_rules_carry_log_benchmark_threads_and_resources(place):
    said = snakemake(place, "--dry-run", config=ROOT / "configs" / "gpu.yaml")
    for rule in ("tokenize", "train", "evaluate", "downstream", "report"):
        job = re.search(rf"^(?:local)?rule {rule}:\n((?:    .*\n)+)", said, re.M).group(1)
        assert "log: results/gpu/logs/" in job
        assert "benchmark: results/gpu/benchmarks/" in job
        if rule in ("train", "evaluate", "downstream"):
            assert "threads: 2" in job
            assert "gpu=1" in job
            assert "mem_mb=" in job
    assert "gpu=0" in snakemake(place, "--dry-run", config=ROOT / "configs" / "default.yaml")


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
        pytest.param("model={variant: mamba}", "'lmm', 'mac', 'mag' or 'mal' (is 'mamba')", id="value"),
        pytest.param("data={sources: [{path: gone.fa}]}", "data.sources.0.path: gone.fa does not exist", id="file"),
    ],
)  # fmt: skip
def test_a_wrong_config_stops_before_the_dag(place, settings, said):
    downstream = "downstream={species: []}"
    output = snakemake(place, "--config", settings, downstream, config=ROOT / "configs" / "tiny.yaml", check=False)
    assert said in output
    assert "Building DAG" not in output
    assert not (place / "results").exists()


def test_a_bad_file_of_the_last_stage_stops_before_the_first(place):
    (place / "protein.fa").write_text(">p\nMKLVWEQRPFFYHILKDESTMKLVWEQRPFFYHILKDEST\n")
    classes = "downstream={species: [{species: a, source: hpylori}, {species: b, path: protein.fa}]}"
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
    config |= {"run": "small", "downstream": {}}
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
    assert len(metrics["downstream"]["classes"]) == 4
    assert metrics["downstream"]["methods"]["titans"]["accuracy"] > 2 * metrics["downstream"]["chance"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 6
    assert list((folder / "train" / "titans" / "wandb").glob("wandb/offline-run-*")) or list(
        (folder / "train" / "titans" / "wandb").glob("offline-run-*")
    )
    assert "Nothing to be done" in snakemake(place, config=ROOT / "configs" / "default.yaml")
