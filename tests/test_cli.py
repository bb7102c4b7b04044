"""The command line: help that teaches, one clear message for a user's mistake, the files each stage leaves."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from titans_genomics.config import TokenizerConfig
from titans_genomics.data.pieces import learn_bpe

ROOT = Path(__file__).parent.parent
STAGES = ("tokenize", "train", "evaluate", "species", "needle", "variants", "report")
DOWNSTREAM = ("prepare", "fit", "score", "table", "run")


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "titans_genomics.cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )


def fails(*arguments, cwd=ROOT):
    """What a failed command says, after checking that it ends as a user's mistake does and shows no traceback."""
    result = run(*arguments, cwd=cwd)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("titans-genomics: error: ")
    return result.stderr


def test_help_teaches():
    text = run("--help").stdout
    for stage in (*STAGES, "config"):
        assert stage in text
    for stage in STAGES:
        text = run(stage, "--help").stdout
        assert f"Example: titans-genomics {stage} --config" in text
        assert "Default: results/RUN" in " ".join(text.split())
    text = run("downstream", "--help").stdout
    for command in ("list", *DOWNSTREAM):
        assert command in text
    for command in DOWNSTREAM[:3]:
        text = " ".join(run("downstream", command, "--help").stdout.split())
        assert f"Example: titans-genomics downstream {command} --config" in text


def test_version():
    from titans_genomics import __version__

    assert run("--version").stdout.strip() == __version__


def test_config_check_show_schema(tmp_path):
    assert "valid; results go to results/tiny/" in run("config", "check", "configs/tiny.yaml").stdout
    shown = yaml.safe_load(run("config", "show", "configs/own_genome.yaml").stdout)
    assert shown["train"]["max_steps"] == 500
    assert json.loads(run("config", "schema").stdout) == json.loads((ROOT / "configs" / "schema.json").read_text())


@pytest.mark.parametrize(
    ("command", "config", "given"),
    [
        ("niah", "niah", ("--model", "titans")),
        ("states", "states_s5", ("--seed", "0")),
        ("states", "states_s5", ("--model", "lstm")),
        ("forecast", "forecast_weather", ("--seed", "0")),
    ],
)
def test_a_table_of_one_model_or_seed_is_refused(command, config, given):
    message = fails(command, "--config", f"configs/{config}.yaml", "--table", *given)
    assert f"--table puts all models and seeds together: leave out {' '.join(given)}, or --table" in message


def test_a_missing_sequence_file_is_named(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("run: x\ndata: {sources: [{path: nowhere.fa}]}\n")
    for command in (("config", "check", bad), ("tokenize", "--config", bad)):
        message = fails(*command, cwd=tmp_path)
        assert "nowhere.fa" in message
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_that_a_stage_needs_is_named_at_once(tmp_path, split):
    (tmp_path / "g.fa").write_text(">a\nACGT\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"run: x\ndata: {{sources: [{{path: g.fa}}], split: {{{split}: 0}}}}\n")
    assert f"data.split.{split} is 0" in fails("config", "check", bad, cwd=tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_bad_config_is_one_message(tmp_path, stage):
    bad = tmp_path / "bad.yaml"
    bad.write_text("run: x\ndata: {sources: [{path: g.fa}]}\ntrain: {lrr: 1}\n")
    assert "train.lrr: unknown key" in fails(stage, "--config", bad, cwd=tmp_path)
    assert "no such config file" in fails(stage, "--config", tmp_path / "none.yaml", cwd=tmp_path)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_without_the_one_before_says_so(tmp_path, stage):
    genome = tmp_path / "g.fa"
    genome.write_text(">a\nACGT\n")
    changes = tmp_path / "v.csv"
    changes.write_text("ref,alt,label\nACGT,ACTT,0\nACGT,ACAT,1\n")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: x\ndata: {{sources: [{{path: {genome}}}]}}\n"
        f"species: {{classes: [{{species: A, path: {genome}}}, {{species: B, path: {genome}}}]}}\n"
        f"needle: {{lengths: [1024]}}\nvariants: {{sets: [{{path: {changes}}}]}}\n"
    )
    message = fails(stage, "--config", config, cwd=tmp_path)
    assert "titans-genomics" in message.split("error:")[1], "names the command to run first"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("stage", "key"),
    [("species", "species.classes"), ("needle", "needle.lengths"), ("variants", "variants.sets")],
)
def test_a_task_that_the_config_does_not_ask_for_says_what_to_add(tmp_path, stage, key):
    (tmp_path / "c.yaml").write_text("run: x\ndata: {sources: [{path: g.fa}]}\n")
    assert f"c.yaml: {key} is empty; " in fails(stage, "--config", "c.yaml", cwd=tmp_path)


def test_suites_are_listed_with_the_metric_of_each_dataset():
    lines = run("downstream", "list").stdout.splitlines()
    assert "genomic_benchmarks: GenomicBenchmarks" in lines
    assert "  human_nontata_promoters (accuracy)" in lines
    assert "  gue_prom_300_all (mcc)" in lines
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert len(names) == len(set(names)) == 8 + 18 + 18 + 28


def test_debug_shows_the_traceback(tmp_path):
    result = run("--debug", "tokenize", "--config", tmp_path / "none.yaml")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_what_no_user_can_mend_keeps_its_traceback_and_another_status(tmp_path):
    code = "import sys\nfrom titans_genomics import cli\ncli.load_config = lambda path: 1 / 0\ncli.main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "tokenize", "--config", "x"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


def test_bad_sequence_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\nACGT!ACGT\n")
    (tmp_path / "c.yaml").write_text("run: x\ndata: {sources: [{path: g.fa}]}\n")
    for command in (("config", "check", "c.yaml"), ("tokenize", "--config", "c.yaml")):
        message = fails(*command, cwd=tmp_path)
        assert message.endswith("\n")
        assert message.splitlines()[-1].startswith(
            "titans-genomics: error: g.fa: contig 'chr1', position 4: '!' is not"
        )
    assert not (tmp_path / "results" / "x" / "tokens").exists()


def test_a_store_written_and_looked_into(tmp_path):
    rng = random.Random(1)
    sequence = "".join(rng.choice("ACGT") for _ in range(6_000))
    (tmp_path / "g.fa").write_text(f">chr1\n{sequence}\n")
    (tmp_path / "c.yaml").write_text("run: x\ndata: {sources: [{path: g.fa}], split: {block: 300}}\n")
    written = run("tokenize", "--config", "c.yaml", "--jobs", "1", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stderr.splitlines()[-1] == "wrote results/x/tokens"
    found = json.loads(run("inspect", "results/x/tokens", "--json", cwd=tmp_path).stdout)
    assert found
    assert "g" in run("inspect", "results/x/tokens", cwd=tmp_path).stdout
    dumped = run("inspect", "results/x/tokens", "--dump", cwd=tmp_path).stdout
    assert "".join(line for line in dumped.splitlines() if not line.startswith(">")) == sequence
    assert "no token store" in fails("inspect", "results/y/tokens", cwd=tmp_path)


def test_fetch_names_the_sources_that_there_are(tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\nACGT\n")
    (tmp_path / "c.yaml").write_text("run: x\ndata: {sources: [{path: g.fa}]}\n")
    assert run("fetch", "--config", "c.yaml", cwd=tmp_path).returncode == 0
    assert "no source 'h'; there are g" in fails("fetch", "--config", "c.yaml", "--source", "h", cwd=tmp_path)


def test_config_check_looks_into_files_of_text(tmp_path):
    codes = np.frombuffer(b"In the beginning God created the heaven and the earth. " * 30, np.uint8)
    learn_bpe([codes], TokenizerConfig(kind="bpe", vocab_size=270), text=True).save(tmp_path / "t.json")
    (tmp_path / "a.jsonl").write_text('{"text": "In the beginning"}\n')
    data = {"sources": [{"path": "a.jsonl"}], "tokenizer": {"kind": "bpe", "path": "t.json"}}
    for section, said in (
        ({"model": {"vocab_size": 260}}, "model.vocab_size is 260, the tokens of data.tokenizer.path are 270"),
        ({"train": {"reverse_complement": 0.5}}, "train.reverse_complement is 0.5, and text has no other strand"),
    ):
        (tmp_path / "c.yaml").write_text(json.dumps({"run": "x", "data": data, **section}))
        assert said in fails("config", "check", "c.yaml", cwd=tmp_path)
    (tmp_path / "c.yaml").write_text(json.dumps({"run": "x", "data": data, "model": {"vocab_size": 270}}))
    assert "valid" in run("config", "check", "c.yaml", cwd=tmp_path).stdout


def test_wrong_model_arguments():
    assert "--model lstm: choose titans, transformer" in fails(
        "train", "--config", "configs/tiny.yaml", "--model", "lstm"
    )
    assert "expected NAME=DIR" in fails("evaluate", "--config", "configs/tiny.yaml", "--model", "results")


FASTQ = "@r\nACGT\n+\nIIII\n"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"tokenizer": {"kind": "bpe", "path": "none.json"}}, "data.tokenizer.path: none.json does not exist"),
        ({"tokenizer": {"kind": "bpe", "path": "t.json"}}, "t.json: not a tokenizer.json"),
        ({"reads": {"coverage": 3}}, "r.fq: data.reads.coverage needs aligned reads"),
        ({"reads": {"regions": ["chr1"]}}, "r.fq: data.reads.regions needs aligned reads"),
        (
            {"sources": [{"path": "r.fq"}, {"path": "t.json", "kind": "text"}], "tokenizer": {"kind": "bpe"}},
            "t.json is text, r.fq is fastq: one run reads text or nucleotides",
        ),
    ],
    ids=["no tokenizer", "foreign tokenizer", "coverage", "regions", "text"],
)
def test_what_only_the_content_tells_is_checked(tmp_path, sections, said):
    (tmp_path / "r.fq").write_text(FASTQ)
    (tmp_path / "t.json").write_text('{"a": 1}')
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"run": "x", "data": {"sources": [{"path": "r.fq"}], **sections}}))
    assert said in fails("config", "check", "c.yaml", cwd=tmp_path)
