"""The section `use` of the config: sample sheets, what targets make of them, options of command lines."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from titans_genomics import cli_use
from titans_genomics.config import check_run, parse_config
from titans_genomics.config_use import USES

SAMPLES = [
    {"sample": "a", "fasta": "a.fa", "vcf": "a.vcf", "loci": "a.bed", "annotation": "a.gff", "test": "b.fa"},
    {"sample": "b", "fasta": "b.fa", "bed": "b.bed", "memory": "a"},
    {"sample": "again", "fasta": "b.fa", "vcf": "b.vcf", "memory": "a"},
    {"sample": "reads", "sequences": "reads.bam", "memory": "kept.safetensors"},
]


def config(use, **others):
    return parse_config({"run": "r", "use": {"model": "results/other"} | use} | others, "config.yaml")


def refused(use, words, **others):
    with pytest.raises(ValueError, match=words):
        config(use, **others)


# ------------------------------------------------------------------------------------------- what is made


@pytest.mark.parametrize(
    ("target", "made"),
    {
        "score_variants": ["a/scored.vcf.gz", "again/scored.vcf.gz"],
        "evaluate_variants": ["a/variants.json", "again/variants.json"],
        "saturate": ["a/saturation.tsv"],
        "tracks": ["a/tracks/tracks.html", "b/tracks/tracks.html"],  # again would be b a second time
        "embed": ["a/vectors.h5", "b/vectors.h5", "again/vectors.h5", "reads/vectors.h5"],
        "memorize": ["a/memory.safetensors", "b/memory.safetensors"],
        "generate": ["generated.fa"],
    }.items(),
)
def test_a_target_makes_what_its_samples_have_files_for(target, made):
    use = config({"samples": SAMPLES, "embed": {"format": "h5"}, "score_variants": {"label": "CLASS"}}).use
    assert use.made(target) == made
    assert set(made) <= {*use.asked(), "generated.fa"}


def test_the_same_genome_is_read_anew_with_another_memory_or_annotation():
    one = {"sample": "one", "fasta": "a.fa"}
    others = [
        one | {"sample": key, key: value} for key, value in (("memory", "one"), ("annotation", "x"), ("mask", "m"))
    ]
    use = config({"samples": [one, *others]}).use
    assert len(use.made("tracks")) == 4
    assert use.made("memorize") == ["one/memory.safetensors"]


@pytest.mark.parametrize(("memory", "file"), [("b", "use/b/memory.safetensors"), ("m.safetensors", "m.safetensors")])
def test_what_is_generated_begins_with_a_memory(memory, file):
    use = config({"samples": SAMPLES, "generate": {"memory": memory}}).use
    assert use.memory(None, "use") == [file]
    assert "--memory" not in use.options("generate")  # the workflow adds the file
    assert ("use.generate.memory", Path(file)) in use.files() or memory == "b"


def test_memories_of_samples_and_files():
    use = config({"samples": SAMPLES}).use
    assert [use.memory(name, "use") for name in ("a", "b", "reads")] == [
        [],
        ["use/a/memory.safetensors"],
        ["kept.safetensors"],
    ]


def test_a_sample_that_begins_with_the_memory_of_what_is_memorised_once():
    """The genome of two samples is memorised under the first one's name; the second one's memory must be made as well."""
    samples = [{"sample": "x", "fasta": "a.fa"}, {"sample": "y", "fasta": "a.fa", "memory": "y"}]
    assert config({"samples": samples}).use.memory("y", "use") == ["use/y/memory.safetensors"]


@pytest.mark.parametrize("target", USES)
def test_a_target_without_samples_says_what_it_needs(target):
    with pytest.raises(ValueError, match=rf"no sample names a {USES[target][0]}, and {target} needs one; list samples"):
        config({}).use.made(target)


def test_evaluation_needs_a_label():
    with pytest.raises(ValueError, match=r"use\.score_variants\.label: not given"):
        config({"samples": SAMPLES}).use.made("evaluate_variants")


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("command", [command.__name__.replace("_", "-") for command in cli_use.COMMANDS])
@pytest.mark.parametrize(
    "use",
    [
        {},
        {
            "strands": "given",
            "stretch": 64,
            "score_variants": {"context": 99, "after": 9, "share": 3, "label": "L", "positive": ["x", "y"]},
            "tracks": {"tracks": ["bits", "theta"], "mask": ["n", "soft"], "flatten": True, "heads": "each"},
            "embed": {"layers": [0, 1], "picture": "umap", "pooling": "last", "per": "position"},
            "generate": {"prompt": "ACGT; rm -rf", "top_k": 3},
            "memorize": {"how": "last"},
        },
    ],
    ids=["defaults", "all given"],
)
def test_options_are_those_of_the_command_line(command, use):
    """Every option is known, and said twice it is the same."""
    options = config({"samples": SAMPLES} | use).use.options(command)
    app = typer.Typer()
    cli_use.add_to(app)
    said = CliRunner().invoke(app, [command, *options])
    assert "Missing" in said.output  # of what the workflow adds: files
    assert "No such option" not in said.output
    names = [word for word in options if word.startswith("--")]
    assert {name for name in names if names.count(name) > 1} <= {"--layer", "--positive", "--negative", "--mask"}


def test_options_say_what_the_config_says():
    use = config({"stretch": 0, "tracks": {"mask": ["n"], "flatten": True, "tracks": ["bits", "eta"]}}).use
    assert use.options("track") == [
        "--tracks", "bits,eta", "--step", "1", "--mask", "n", "--heads", "mean", "--flatten", "--intervals", "100",
        "--stretch", "0",
    ]  # fmt: skip
    assert "--stretch" not in use.options("memorize")  # which takes no 0


# --------------------------------------------------------------------------------------------------- sheet


def write(folder, text):
    path = folder / "samples.tsv"
    path.write_text(text)
    return str(path)


def test_a_sheet_is_a_list(tmp_path):
    sheet = write(tmp_path, "sample\tfasta\tmemory\tvcf\n# a comment\na\ta.fa\t\ta.vcf\n\nb\tb.fa\ta\t\n")
    listed = [{"sample": "a", "fasta": "a.fa", "vcf": "a.vcf"}, {"sample": "b", "fasta": "b.fa", "memory": "a"}]
    assert config({"samples": sheet}).use == config({"samples": listed}).use


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample\tvcf\na\ta.vcf\n", r"line 2: sample 'a': vcf needs a genome; name it under fasta"),
        ("sample\tfasta\na b\ta.fa\n", r"line 2: sample: String should match"),
        ("sample\tfasta\n../up\ta.fa\n", r"line 2: sample: String should match"),
        ("sample\tgenome\na\ta.fa\n", r"line 1: unknown column 'genome'; the columns are sample, fasta, vcf"),
        ("fasta\na.fa\n", r"line 1: no column sample in the header"),
        ("sample\tfasta\n\ta.fa\n", r"line 2, column sample: the cell is empty; every row needs the name of a sample"),
        ("sample\tfasta\n", r"no rows below its header\. Give the name of a sample per row"),
        ("sample\tfasta\na\ta.fa\tx\n", r"line 2 has 3 cells, the header has 2"),
        ("sample\tfasta\na\ta.fa\na\tb.fa\n", r"the sample 'a' stands here twice"),
        ("sample\tfasta\tsequences\tbed\na\ta.fa\ts.fa\tb.bed\n", r"line 2: sample 'a': bed and sequences are both"),
        ("sample\tfasta\na\t\n", r"line 2: sample 'a': nothing to read"),
        (">contig\nACGT\n", r"not a sample sheet but a sequence file\. Samples also stand in a list"),
    ],
    ids=[
        "vcf alone", "blank in a name", "path in a name", "unknown column", "no names", "empty name", "no rows", "a cell too many",
        "name twice", "two to embed", "nothing to read", "fasta",
    ],
)  # fmt: skip
def test_a_bad_sheet_is_named_with_its_line(tmp_path, text, words):
    refused({"samples": write(tmp_path, text)}, words)


def test_a_sheet_that_is_not_there():
    refused({"samples": "none.tsv"}, r"none\.tsv: no such sample sheet \(use\.samples")


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ({"samples": [{"sample": "a", "fasta": "a.fa", "labels": "l.tsv"}]}, "labels are those of variants"),
        ({"score_variants": {"context": 64, "after": 64}}, "after 64 must be below context 64"),
        (
            {"score_variants": {"positive": ["x", "y"], "negative": ["y"]}},
            "'y' stands under positive and under negative",
        ),
        ({"device": "tpu"}, r"use\.device: String should match"),
        (
            {"generate": {"memory": "reads"}, "samples": SAMPLES},
            "generate begins with the memory of 'reads', which has no",
        ),
    ],
    ids=["labels alone", "nothing before", "both classes", "device", "memory of reads"],
)
def test_what_does_not_go_together_is_refused(use, words):
    refused(use, words)


def test_a_memory_needs_a_genome():
    samples = [{"sample": "a", "sequences": "a.fq"}, {"sample": "b", "fasta": "b.fa", "memory": "a"}]
    refused({"samples": samples}, "'b' begins with the memory of 'a', which has no fasta to memorise")


@pytest.mark.parametrize("name", ["generated.fa", "generated.json", "generated.html"])
def test_no_sample_is_named_as_a_file_of_generate(name):
    refused({"samples": [{"sample": name, "fasta": "a.fa"}]}, rf"cannot be named '{name}'.*; rename it")


@pytest.mark.parametrize(("reads", "needed"), [("r.cram", ["a.fa"]), ("R.CRAM", ["a.fa"]), ("r.bam", [])])
def test_reads_of_a_cram_need_its_genome(reads, needed):
    sample = {"sample": "a", "sequences": reads}
    assert config({"samples": [sample | {"fasta": "a.fa"}]}).use.reference("a") == needed
    if needed:
        refused({"samples": [sample]}, "sample 'a': a CRAM needs the genome of its reads; name it under fasta")


def test_layers_are_counted_from_0():
    refused({"embed": {"layers": [1, -1]}}, r"use\.embed\.layers\.1: Input should be greater than or equal to 0")


# -------------------------------------------------------------------------------------------- the whole run


def test_without_data_only_another_runs_model_can_be_used():
    with pytest.raises(ValueError, match=r"data: missing; .* use\.model"):
        parse_config({"run": "r"}, "c")
    states = {"run": "r", "states": {"group": "s3"}, "use": {"samples": SAMPLES}}
    with pytest.raises(ValueError, match=r"use\.samples: needs the section data"):
        parse_config(states, "c")
    assert config({}).only_used


def test_a_model_of_the_run_must_be_one():
    data = {"sources": [{"path": "a.fa"}]}
    with pytest.raises(ValueError, match=r"use\.name: 'mac' is not a model of this run \(titans\)"):
        parse_config({"run": "r", "data": data, "use": {"name": "mac"}}, "c")
    parse_config({"run": "r", "data": data, "use": {"name": "mac"}, "compare": {"mac": {"variant": "mac"}}}, "c")


def test_a_model_of_text_reads_no_genomes():
    data = {"sources": [{"path": "a.txt", "kind": "text"}], "tokenizer": {"kind": "byte"}}
    use = {"samples": [{"sample": "a", "fasta": "a.fa"}]}
    with pytest.raises(ValueError, match=r"use\.samples: genomes need a model of bases"):
        parse_config({"run": "r", "data": data, "use": use}, "c")


def test_files_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = config({"samples": [{"sample": "a", "fasta": "a.fa", "memory": "m.safetensors"}]})
    for key, file in (("fasta", "a.fa"), ("memory", "m.safetensors")):
        with pytest.raises(FileNotFoundError, match=rf"use\.samples\.a\.{key}: {file} does not exist"):
            check_run(own)
        Path(file).write_text("")
    with pytest.raises(
        FileNotFoundError, match=r"use\.model: results/other/train/titans/model\.safetensors does not exist"
    ):
        check_run(own)
