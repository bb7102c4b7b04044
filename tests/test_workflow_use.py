"""The workflow's targets that use a trained model, by a sample sheet: what is made, what is not made again, what goes wrong."""

import gzip
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pybigtools
import pytest
import yaml
from running import ROOT, jobs, ran, snakemake

sys.path.insert(0, str(ROOT / "tests" / "use"))

from made_run import make_run, random_bases, write_fasta

SETTINGS = {
    "run": "used",
    "use": {
        "model": "trained",
        "samples": "samples.tsv",
        "score_variants": {"context": 128, "label": "CLASS", "positive": ["x"], "negative": ["y", "z"]},
        "tracks": {"tracks": ["bits", "surprise"], "step": 5},
        "embed": {"layers": [1, 2], "picture": "pca"},
        "generate": {"length": 300, "count": 2, "prompt": "b.fa", "genome": "a.fa", "memory": "a"},
    },
}
SHEET = """sample,fasta,vcf,loci,bed,sequences,annotation,memory,test
a,a.fa,a.vcf,loci.bed,genes.bed,,genes.bed,,b.fa
b,b.fa,,,,,,a,
"reads",,,,,reads.fa,,a,
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with genomes, variants, loci, genes, reads, their sheet, and the run of a small model."""
    folder = tmp_path_factory.mktemp("used")
    make_run(folder / "trained")
    genome = random_bases(3000)
    write_fasta(folder / "a.fa", genome)
    write_fasta(folder / "b.fa", random_bases(900, 2), random_bases(300, 3))
    write_fasta(folder / "reads.fa", *(random_bases(60, seed) for seed in range(5)))
    (folder / "genes.bed").write_text("record0\t100\t400\tone\t0\t-\nrecord0\t1000\t1300\ttwo\t0\t+\n")
    (folder / "loci.bed").write_text("record0\t500\t505\n")
    rows = [
        f"record0\t{at + 1}\t.\t{genome[at]}\t{'ACGT'['ACGT'.index(genome[at]) - 1]}\t.\t.\tCLASS={'xyz'[at % 3]}\n"
        for at in range(100, 2900, 100)
    ]
    info = '##INFO=<ID=CLASS,Number=1,Type=String,Description="its class">\n'
    head = "##fileformat=VCFv4.2\n##contig=<ID=record0>\n" + info + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (folder / "a.vcf").write_text(head + "".join(rows))
    (folder / "samples.tsv").write_text(SHEET)
    (folder / "use.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def said(place):
    """All targets, where an earlier run with other tracks and more vectors left files that are no output of the rules."""
    made = place / "results" / "used" / "use" / "a"
    (made / "tracks").mkdir(parents=True)
    for stale in ("tracks/entropy.bw", "vectors.svg"):
        (made / stale).write_text("")
    return snakemake(place, "generate", "use", config="use.yaml")


def test_every_target_makes_its_files(place, said):
    per_sample = {f"{kind}_sample" for kind in ("score", "evaluate", "saturate", "track", "embed", "memorize")}
    assert ran(said) == {"generate", "use", *per_sample}
    made = place / "results" / "used" / "use"
    found = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file() and "tracks/" not in str(path)}
    assert found == {
        "a/scored.vcf.gz", "a/scored.vcf.gz.tbi", "a/scored.json", "a/variants.json", "a/saturation.tsv",
        "a/saturation.svg", "a/vectors.parquet", "a/memory.safetensors", "a/memory.json", "b/vectors.parquet",
        "b/memory.safetensors", "b/memory.json", "reads/vectors.parquet", "reads/vectors.svg", "generated.fa",
        "generated.json", "generated.html",
    }  # fmt: skip
    tracks = {path.name for path in (made / "a" / "tracks").iterdir()}
    assert tracks == {
        "bits.bw",
        "surprise_layer0.bw",
        "surprise_layer1.bw",
        "surprising.bed",
        "tracks.html",
        "tracks.json",
    }


def test_files_hold_what_the_config_asks_for(place, said):
    made = place / "results" / "used" / "use"
    vectors = pq.read_table(made / "a" / "vectors.parquet")
    assert vectors.column_names[-2:] == ["vector_1", "vector_2"]
    assert vectors["start"].to_pylist() == [100, 1000]
    assert pq.read_table(made / "reads" / "vectors.parquet").num_rows == 5
    with gzip.open(made / "a" / "scored.vcf.gz", "rt") as lines:
        assert sum("TITANS_LLR=" in line and line[0] != "#" for line in lines) == 28
    figures = json.loads((made / "a" / "variants.json").read_text())
    assert figures["labels"] == {"0": 19, "1": 9}
    bits = pybigtools.open(str(made / "a" / "tracks" / "bits.bw"))
    assert len(set(np.round(bits.values("record0", 100, 105, fillna=None), 6))) == 1  # one value of five bases
    assert (made / "generated.fa").read_text().count(">") == 4  # two of each record of the prompt


def test_memory_of_another_sample_changes_its_tracks_and_its_own_does_not_begin_with_it(place, said):
    jobs_of = {job["sample"]: job["text"] for job in jobs(said, "track_sample")}
    assert "a/memory.safetensors" in jobs_of["b"]
    assert "memory" not in jobs_of["a"]
    assert not any("a/memory" in job["text"].split("output:")[0] for job in jobs(said, "memorize_sample"))
    summary = json.loads((place / "results/used/use/b/tracks/tracks.json").read_text())
    assert summary["memory"]["read"][0]["path"] == "a.fa"
    tested = json.loads((place / "results/used/use/a/memory.json").read_text())["test"]
    assert tested["path"] == "b.fa"


def test_a_job_depends_on_all_that_its_model_is_read_with(place, said):
    (job,) = jobs(said, "score_sample")
    for file in ("train/titans/model.safetensors", "tokens/tokenizer.json", "evaluate/evaluate.json"):
        assert f"trained/{file}" in job["text"].split("output:")[0]


def test_what_is_made_is_not_made_again(place, said):
    assert ran(snakemake(place, "use", "generate", config="use.yaml")) == set()
    again = snakemake(place, "use", "--dry-run", "--config", "use={tracks: {step: 1}}", config="use.yaml")
    assert ran(again) == {"track_sample", "use"}


def test_by_default_a_run_without_data_does_all_of_it(place, said):
    assert ran(snakemake(place, "--dry-run", config="use.yaml")) == set()


def test_the_runs_own_model_is_trained_and_evaluated_first(place):
    config = place / "own.yaml"
    data = {"sources": [{"path": "a.fa"}]}
    own = {"run": "own", "data": data, "use": {"samples": [{"sample": "b", "fasta": "b.fa"}]}}
    config.write_text(yaml.safe_dump(own))
    asked = ran(snakemake(place, "--dry-run", "tracks", config=config))
    assert asked == {"tokenize", "train", "evaluate", "track_sample", "tracks"}
    assert "use" not in ran(snakemake(place, "--dry-run", config=config))


def test_what_is_missing_is_said_before_anything_runs(place):
    config = place / "bad.yaml"
    for use, words in (
        ({"samples": [{"sample": "a", "fasta": "none.fa"}]}, "use.samples.a.fasta: none.fa does not exist"),
        ({"name": "mac"}, "trained/train/mac/model.safetensors does not exist"),
        ({"generate": {"prompt": "{x}"}}, "use.generate.prompt: {x}: Snakemake takes braces for wildcards"),
        ({}, "use.samples: no sample names a fasta, and tracks needs one"),
    ):
        config.write_text(yaml.safe_dump({"run": "bad", "use": {"model": "trained"} | use}))
        assert words in snakemake(place, "tracks", config=config, check=False)
    assert not (place / "results" / "bad").exists()


def test_a_failed_command_leaves_nothing_and_its_reason_in_the_log(place):
    (place / "broken.vcf").write_text("no header\n")
    config = place / "broken.yaml"
    samples = [{"sample": "a", "fasta": "a.fa", "vcf": "broken.vcf"}]
    config.write_text(yaml.safe_dump({"run": "broken", "use": {"model": "trained", "samples": samples}}))
    snakemake(place, "score_variants", config=config, check=False)
    log = (place / "results/broken/logs/use/a/score_variants.log").read_text()
    assert "titans-genomics: error:" in log
    assert "broken.vcf" in log
    assert not (place / "results/broken/use/a").exists()  # removed with the file that was in it
