"""The schema, its copies on disk, and what is said about a config that is wrong."""

import json
import re
import time
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest
import yaml

from titans_genomics.config import (
    STAGES,
    Config,
    check_kinds,
    check_run,
    load_config,
    parse_config,
    stage_settings,
)

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SMALLEST = {"run": "x", "data": {"sources": [{"path": "genome.fa"}]}}


def with_(**sections):
    return SMALLEST | sections


def reads(**settings):
    return with_(data={**SMALLEST["data"], "reads": settings})


def texts(*names, tokenizer, rc):
    """Sources of kind text."""
    sources = [{"path": f"{name}.txt", "kind": "text"} for name in names]
    return with_(data={"sources": sources, "tokenizer": tokenizer}, train={"reverse_complement": rc})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_after_their_run(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    assert config.run == path.stem
    missing = [str(file) for _, file in config.files() if not (ROOT / file).is_file()]
    assert not missing or path.parent.name == "bacteria", "only the genomes of configs/bacteria come from elsewhere"


def test_default_config_shows_every_key():
    def keys(settings, model):
        assert set(settings) == set(model.model_fields), model.__name__
        for name, field in model.model_fields.items():
            if isinstance(settings[name], dict) and name not in ("compare", "published", "fits"):
                keys(settings[name], next(iter(get_args(field.annotation)), field.annotation))

    keys(yaml.safe_load((ROOT / "configs" / "default.yaml").read_text()), Config)


def test_every_key_has_a_description():
    def walk(schema):
        for name, section in schema["$defs"].items():
            for key, entry in section["properties"].items():
                assert entry.get("description"), f"{name}.{key}"

    walk(Config.model_json_schema())


def test_schema_file_is_in_step():
    stored = json.loads((ROOT / "configs" / "schema.json").read_text())
    assert stored == Config.model_json_schema(), "run: titans-genomics config schema --out configs/schema.json"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            with_(trian={}),
            "trian: unknown key; known here: compare, data, downstream, evaluate, forecast, lm_eval",
            id="section",
        ),
        pytest.param(with_(train={"learning_rate": 1}), "train.learning_rate: unknown key", id="key"),
        pytest.param(
            with_(train={"wandb": {"projct": "x"}}),
            "train.wandb.projct: unknown key; known here: entity, mode",
            id="nested",
        ),
        pytest.param(
            {"run": "x", "data": {"sources": [{"path": "a.fa", "sort": "fasta"}]}},
            "data.sources.0.sort: unknown key; known here: assembly, column, exclude, kind, md5, name",
            id="list",
        ),
        pytest.param(with_(train={"lr": -1}), "train.lr: Input should be greater than 0 (is -1)", id="range"),
        pytest.param(with_(train={"lr": float("nan")}), "train.lr", id="nan"),
        pytest.param(with_(model={"variant": "mamba"}), "'gated_deltanet' or 'diagonal' (is 'mamba')", id="choice"),
        pytest.param(
            with_(model={"variant": "mac", "segment": 100, "chunk": 64}),
            "segment 100 is not a multiple of chunk 64",
            id="segment",
        ),
        pytest.param(
            with_(model={"d_model": 10, "n_heads": 3}), "d_model 10 is not a multiple of n_heads 3", id="heads"
        ),
        pytest.param(with_(run="a/b"), "run: String should match pattern", id="run"),
        pytest.param({"data": SMALLEST["data"]}, "run: Field required", id="missing"),
        pytest.param({"run": "x", "data": {"sources": []}}, "data.sources", id="no source"),
        pytest.param(
            {"run": "x", "data": {"sources": [{"path": "a/g.fa"}, {"path": "b/g.fa"}]}},
            "two sources share the name 'g'",
            id="names",
        ),
        pytest.param(
            {"run": "x", "data": {"sources": [{"path": "a/g.fa"}, {"path": "a/../a/g.fa", "name": "h"}]}},
            "the same file twice: a/../a/g.fa. Name it once, and raise its weight",
            id="same file",
        ),
        pytest.param(
            with_(data={"sources": [{"path": "g.fa", "species": "E"}, {"path": "h.fa"}], "split": {"by": "species"}}),
            "data.split.by is species, and source 'h' has none (data.sources[].species)",
            id="species",
        ),
        pytest.param(
            with_(data={"sources": [{"path": "g.fa", "md5": "12"}]}),
            "data.sources.0.md5: String should match",
            id="md5",
        ),
        pytest.param(
            with_(data={"sources": [{"path": "g.fa", "split": "tests"}]}),
            "data.sources.0.split: Input should be 'train', 'validation' or 'test' (is 'tests')",
            id="fixed split",
        ),
        pytest.param(
            with_(data={"sources": "nowhere.tsv"}), "nowhere.tsv: no such sample sheet (data.sources", id="no sheet"
        ),
        pytest.param(
            with_(data={"sources": [{"path": "nowhere/*.fa"}]}), "no file matches nowhere/*.fa", id="no match"
        ),
        pytest.param(
            with_(data={**SMALLEST["data"], "tokenizer": {"kind": "bpe", "overlap": True}}),
            "data.tokenizer: overlap is for kind kmer, this is bpe",
            id="overlap",
        ),
        pytest.param(
            with_(data={**SMALLEST["data"], "tokenizer": {"path": "t.json"}}),
            "data.tokenizer: path is for kind bpe, this is nucleotide",
            id="tokenizer path",
        ),
        pytest.param(
            with_(data={**SMALLEST["data"], "tokenizer": {"kind": "byte"}}, train={"reverse_complement": 0.5}),
            "train.reverse_complement is 0.5, and text has no other strand: set it to 0",
            id="text",
        ),
        pytest.param(
            with_(data={**SMALLEST["data"], "soft_mask": "ignore"}, train={"soft_mask_weight": 0.5}),
            "train.soft_mask_weight below 1 needs data.soft_mask keep",
            id="soft mask",
        ),
        pytest.param(
            with_(data={**SMALLEST["data"], "tokenizer": {"kind": "kmer"}}, train={"soft_mask_weight": 0.5}),
            "train.soft_mask_weight below 1 needs data.soft_mask keep and data.tokenizer.kind nucleotide",
            id="soft mask of k-mers",
        ),
        pytest.param(
            reads(min_length=200, max_length=150),
            "data.reads: min_length 200 is above max_length 150: no read would be left",
            id="lengths",
        ),
        pytest.param(
            reads(require_flags=0x13, exclude_flags=0x12), "flag 0x12, which exclude_flags excludes", id="flags"
        ),
        pytest.param(reads(require_flags=0x100), "flag 0x100, which secondary false excludes", id="secondary"),
        pytest.param(reads(require_flags=0x4, unmapped=False), "flag 0x4, which unmapped false", id="unmapped"),
        *(
            pytest.param(
                reads(consensus=True, **asked),
                f"data.reads.{next(iter(asked))} cannot go with data.reads.consensus: leave one of them out",
                id=f"consensus {next(iter(asked))}",
            )
            for asked in ({"fraction": 0.5}, {"coverage": 3}, {"regions": ["chr1"]})
        ),
        pytest.param(
            texts("a", tokenizer={"kind": "bpe", "vocab_size": 259}, rc=0),
            "data.tokenizer.vocab_size is 259: bpe of text needs 260 or more",
            id="vocabulary of text",
        ),
        pytest.param(
            texts("a", "b", tokenizer={"kind": "bpe"}, rc=0.5),
            "train.reverse_complement is 0.5, and text has no other strand: set it to 0",
            id="pieces of text",
        ),
        pytest.param(
            with_(data={"sources": [{"path": "a.txt", "kind": "text"}, {"path": "b.fa", "kind": "fasta"}]}),
            "data: a.txt is text, b.fa is fasta: one run reads text or nucleotides. Give each a config of its own",
            id="text and fasta",
        ),
        *(
            pytest.param(
                with_(data={"sources": [{"path": "a.fq", "kind": "fastq"}], "reads": asked}),
                f"data: a.fq: data.reads.{next(iter(asked))} needs aligned reads",
                id=f"fastq {next(iter(asked))}",
            )
            for asked in ({"coverage": 3}, {"regions": ["chr1"]})
        ),
        pytest.param(
            with_(data={"sources": [{"path": "g.fa", "md5": 12345678901234567890123456789012}]}),
            "data.sources.0.md5: YAML reads this checksum as a number: put it in quotes",
            id="md5 of digits",
        ),
        pytest.param(
            with_(train={"documents": "reset", "carry": 2}), "it does not go with train.carry", id="reset and carry"
        ),
        pytest.param(with_(train={"documents": "reset", "piece": 64}), "or train.piece", id="reset and piece"),
        pytest.param(with_(train={"temperature": 0.5}), "train.temperature: Input should be greater", id="temperature"),
        pytest.param(
            with_(data={**SMALLEST["data"], "split": {"leaks": {"k": 32}}}),
            "data.split.leaks.k: Input should be less than or equal to 31 (is 32)",
            id="leaks",
        ),
        pytest.param(with_(data={"sources": [{"path": "g.fa", "weight": 0}]}), "every weight is 0", id="weights"),
        pytest.param(
            with_(species={"classes": [{"species": "E", "path": "g.fa"}]}), "two or more classes", id="classes"
        ),
        pytest.param(
            with_(species={"classes": [{"species": "E", "source": "gg"}, {"species": "F", "path": "g.fa"}]}),
            "species.classes: source 'gg' is not one of data.sources (genome)",
            id="source",
        ),
        pytest.param(
            with_(species={"per_class": 10, "test": 0.01}), "none to train on or none to test on", id="none to test"
        ),
        pytest.param(
            with_(species={"length": [512, 8]}), "species.length.1: Input should be greater", id="species length"
        ),
        pytest.param(with_(compare={"transformer": {}}), "compare.transformer: this name is taken", id="compare name"),
        pytest.param(with_(compare={"mac": {"varant": "mac"}}), "compare.mac.varant: unknown key", id="compare key"),
        pytest.param(
            with_(compare={"x": {"n_heads": 3}}), "compare.x: d_model 128 is not a multiple", id="compare shape"
        ),
        pytest.param(with_(compare={"x": {"conv": -1}}), "compare.x.conv: Input should be greater", id="compare value"),
        pytest.param(
            with_(compare={"x": {"vocab_size": 9}}), "compare.x.vocab_size: all models", id="compare vocabulary"
        ),
        pytest.param(
            with_(needle={"source": "gg"}), "needle: source 'gg' is not one of data.sources", id="needle source"
        ),
        pytest.param(with_(downstream={"suites": ["gui"]}), "gui", id="suite"),
        pytest.param(
            with_(downstream={"models": ["mac"]}), "downstream.models: 'mac' is not a model of this run", id="models"
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "a/x.csv"}, {"path": "b/x.csv"}]}),
            "the name 'x' stands twice",
            id="dataset names",
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "gue.csv"}]}),
            "'gue' is that of a benchmark",
            id="name of a benchmark",
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "x.csv", "label": ["a", "b"], "task": "classification"}]}),
            "has one label column",
            id="labels",
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "x.csv", "task": "regression", "metric": "auroc"}]}),
            "metric auroc does not fit task regression",
            id="metric",
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "data/train.csv"}]}),
            "'train' is the name of a stage",
            id="name of a rule",
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "my data.csv"}]}),
            "'my data' cannot be a name",
            id="name with a blank",
        ),
        pytest.param(
            with_(downstream={"datasets": [{"path": "a$(touch x).csv"}]}), "cannot be a name", id="name for a shell"
        ),
        pytest.param(with_(downstream={"datasets": [{"path": ".csv"}]}), "'' cannot be a name", id="no name"),
        pytest.param(with_(variants={"sets": [{"path": "../x/.."}]}), "cannot be a name", id="name of a variant set"),
        pytest.param(with_(downstream={"finetune": {"lr": [0.1, 0.1]}}), "stands there twice", id="trials"),
        pytest.param(
            with_(downstream={"hub": [{"name": "h", "repo": "a/b", "trust_remote_code": True}]}),
            "trust_remote_code needs a revision",
            id="remote code",
        ),
        pytest.param(
            with_(
                data={"sources": [{"path": "g.txt"}], "tokenizer": {"kind": "byte"}},
                train={"reverse_complement": 0},
                downstream={"datasets": [{"path": "x.csv"}]},
            ),
            "downstream: sequences need a model of bases",
            id="text",
        ),
        pytest.param(
            with_(data={"sources": [{"path": "g.fa"}], "split": {"validation": 0.5, "test": 0.5}}),
            "validation + test must be below 1",
            id="split",
        ),
    ],
)
def test_faults_are_named_with_key_and_remedy(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        parse_config(settings, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")


def test_a_sample_sheet_is_a_list_of_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genomes").mkdir()
    for name in ("a.fa", "b.fa"):
        (tmp_path / "genomes" / name).write_text(">x\nACGT\n")
    (tmp_path / "sheet.tsv").write_text(
        "path\tspecies\tweight\tsplit\ngenomes/*.fa\tE. coli\t2\t\nhttps://x.org/c.fa.gz\t\t\ttest\n"
    )
    config = parse_config({"run": "x", "data": {"sources": "sheet.tsv", "downloads": "there"}}, "x")
    assert [(str(s.path), s.label, s.species, s.weight, s.split) for s in config.data.sources] == [
        ("genomes/a.fa", "a", "E. coli", 2, None),
        ("genomes/b.fa", "b", "E. coli", 2, None),
        ("there/c.fa.gz", "c", None, 1, "test"),
    ]
    assert config.data.sources[2].url == "https://x.org/c.fa.gz"
    assert parse_config(config.model_dump(mode="json"), "again") == config


def test_files_that_must_be_there(tmp_path, monkeypatch):
    """Those beside the sequences too, and not what is downloaded."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "run": "x",
        "data": {
            "sources": [
                {"path": "a.cram", "reference": "r.fa", "regions": "r.bed", "exclude": "e.bed"},
                {"path": "https://x.org/c.fa.gz"},
            ],
            "tokenizer": {"kind": "bpe", "path": "t.json"},
        },
        "species": {"classes": [{"species": "E", "path": "e.fa"}, {"species": "A", "source": "a"}]},
        "downstream": {"datasets": [{"path": "d.csv", "test": "t.csv"}]},
        "variants": {"sets": [{"path": "v.tsv"}]},
    }
    needed = ["a.cram", "r.fa", "r.bed", "e.bed", "t.json", "e.fa", "d.csv", "t.csv", "v.tsv"]
    config = parse_config(settings, "x")
    assert [str(path) for _, path in config.files()] == needed
    for name in needed:
        with pytest.raises(FileNotFoundError, match=re.escape(f": {name} does not exist")) as caught:
            check_run(config)
        key = str(caught.value).split(":")[0]
        assert key in dict(config.files())
        (tmp_path / name).touch()
    check_run(config)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_share_zero_that_a_source_is_given_to_is_there(tmp_path, split):
    for name in ("a.fa", "b.fa"):
        (tmp_path / name).touch()
    sources = [{"path": str(tmp_path / "a.fa")}, {"path": str(tmp_path / "b.fa")}]
    settings = {"run": "x", "data": {"sources": sources, "split": {split: 0}}}
    with pytest.raises(ValueError, match=rf"data\.split\.{split} is 0"):
        check_run(parse_config(settings, "x"))
    sources[1]["split"] = split
    check_run(parse_config(settings, "x"))


def test_what_goes_together_is_left_alone():
    parse_config(reads(min_length=150, max_length=150, require_flags=0x103, secondary=True, exclude_flags=0x10), "x")
    parse_config(reads(consensus=True, min_depth=3), "x")
    parse_config(texts("a", tokenizer={"kind": "bpe", "vocab_size": 260}, rc=0), "x")
    parse_config(texts("a", tokenizer={"kind": "bpe", "vocab_size": 16, "path": "t.json"}, rc=0), "x")
    mixed = {"sources": [{"path": "a.bam", "kind": "bam"}, {"path": "b.fa"}], "reads": {"coverage": 3}}
    parse_config(with_(data=mixed), "x")


def test_detected_formats_are_held_against_each_other_and_the_settings():
    """As they are when the config names them, once the content has told them."""
    data = parse_config(with_(data={"sources": [{"path": "a"}, {"path": "b"}], "reads": {"coverage": 3}}), "x").data
    check_kinds(data, ["auto", "bam"])
    check_kinds(data, ["fasta", "cram"])
    with pytest.raises(ValueError, match=r"^b: data\.reads\.coverage needs aligned reads"):
        check_kinds(data, ["bam", "fastq"])
    with pytest.raises(ValueError, match=r"^b is text, a is bam: one run reads text or nucleotides"):
        check_kinds(data, ["bam", "text"])


def test_a_fault_in_a_sample_sheet_is_named_by_line_and_column(tmp_path, monkeypatch):
    """Behind a pattern, too, and all at once."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.fa", "b.fa"):
        (tmp_path / name).write_text(">x\nACGT\n")
    Path("genomes.tsv").write_text(
        "# remark\npath\tkind\tsplit\tmd5\tname\n*.fa\t\ttests\t\t\nc.fa\tfast\t\t12\ta b\nd.fa\t\ttest\t\t\n"
    )
    with pytest.raises(ValueError, match="not valid") as caught:
        parse_config(with_(data={"sources": "genomes.tsv", "max_n": 2}), "x.yaml")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert "genomes.tsv: line 3, column split: Input should be 'train', 'validation' or 'test' (is 'tests')" in lines
    begins = [f"genomes.tsv: line 4, column {column}: " for column in ("kind", "name", "md5")]
    assert all(any(line.startswith(begin) for line in lines) for begin in begins)
    assert any(line.startswith("data.max_n: ") for line in lines)
    assert not any("sources" in line or "line 5" in line for line in lines)


def test_a_fault_behind_a_pattern_is_named_by_its_place_in_the_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.fa", "b.fa"):
        (tmp_path / name).write_text(">x\nACGT\n")
    with pytest.raises(ValueError, match="not valid") as caught:
        parse_config(with_(data={"sources": [{"path": "*.fa"}, {"path": "c.fa", "split": "no"}, "d.fa"]}), "x.yaml")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.split(": ")[0] for line in lines] == ["data.sources.1.split", "data.sources.2"]


def test_ten_thousand_sources(tmp_path):
    sheet = tmp_path / "many.tsv"
    sheet.write_text("path\tspecies\n" + "".join(f"g/s{i}.fa\tspecies {i}\n" for i in range(10_000)))
    began = time.process_time()
    config = parse_config(with_(data={"sources": str(sheet)}), "x")
    assert time.process_time() - began < 5, "far below what comparing all with all takes"
    assert len(config.data.sources) == 10_000


def test_all_faults_are_said_at_once():
    with pytest.raises(ValueError, match=r"train\.lr") as caught:
        parse_config(with_(train={"lr": -1, "steps": 3}, model={"chunk": 0}), "my.yaml")
    assert {"train.lr", "train.steps", "model.chunk"} <= set(re.findall(r"^  ([\w.]+):", str(caught.value), re.M))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: [", "not valid YAML"),
        ("- a", "a mapping of sections, found list"),
        ("", "a mapping of sections"),
        ("run: x\n", "data: missing; list sequence files or text under data.sources"),
        (
            "run: x\ntrain:\n  lr: 1\n  clip: 1\n  lr: 2\n",
            "line 5: the key 'lr' stands in this section a second time (before: line 3). Remove one of them",
        ),
        ('run: x\ndata: {"sources": [{path: a.fa, "path": b.fa}]}\n', "line 2: the key 'path' stands"),
        ("run: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_merged_sections_may_overrule_one_another(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(
        "run: x\ndata:\n  sources:\n    - &a {path: a.fa, species: E}\n    - &b {<<: *a, path: b.fa}\n    - {<<: *b, path: c.fa}\n"
    )
    assert [(str(s.path), s.species) for s in load_config(path).data.sources] == [
        ("a.fa", "E"),
        ("b.fa", "E"),
        ("c.fa", "E"),
    ]


def test_missing_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such config file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_settings_of_a_stage_are_a_config_of_their_own(stage):
    written = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    config = parse_config(written | {"states": {"group": "s3"}, "forecast": {"path": "x.csv"}}, "tiny")
    again = parse_config(json.loads(json.dumps(stage_settings(config, stage))), "settings")
    trimmed = {"downstream"} if stage != "report" else set()
    trimmed |= {"train"} if stage in config.tasks else set()
    for section in STAGES[stage] - trimmed:
        assert getattr(again, section) == getattr(config, section)


MEASURED = {"evaluate", "species", "fit", "score", "table", "needle", "variants", "lm_eval", "niah", "report"}


def test_a_stage_depends_on_its_own_sections_only():
    config = load_config(ROOT / "configs" / "tiny.yaml")

    def touched(**sections):
        other = config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in sections.items()})
        return {stage for stage in STAGES if stage_settings(config, stage) != stage_settings(other, stage)}

    assert touched(train={"lr": 1.0}) == {"train", *MEASURED}
    assert touched(train={"documents": "reset"}) == {"train", *MEASURED}
    assert touched(data={"iupac": "random"}) == set(STAGES) - {"states", "forecast"}
    assert touched(states={"samples": 9}) == {"states", "report"}
    assert touched(forecast={"patch": 8, "stride": 8}) == {"forecast", "report"}
    assert touched(niah={"samples": 9}) == {"niah", "report"}
    assert touched(lm_eval={"limit": 9}) == {"lm_eval", "report"}
    assert touched(model={"d_model": 64}) == set(STAGES) - {"tokenize", "prepare"}
    assert touched(species={"kmer": 2}) == {"species", "report"}
    assert touched(downstream={"kmer": 2}) == {"score", "table", "report"}
    assert touched(downstream={"methods": ("knn",)}) == {"table", "report"}
    assert touched(downstream={"pooling": "last"}) == {"fit", "score", "table", "report"}
    assert touched(downstream={"seeds": (7,)}) == {"score", "table", "report"}
    assert touched(downstream={"protocol": "hyenadna"}) == {"prepare", "fit", "score", "table", "report"}
    assert touched(downstream={"max_sequences": 100}) == {"prepare", "fit", "score", "table", "report"}
    assert touched(needle={"motif": 9}) == {"needle", "report"}
    assert touched(variants={"bootstrap": 9}) == {"variants", "report"}
    assert touched(evaluate={"piece": 7}) == {"evaluate", "report"}
    assert touched(report={"title": "x"}) == {"report"}


def test_needles_of_one_model_depend_on_its_training_alone():
    fits = {"mac": {"steps": 3}, "mag": {"steps": 4}}
    models = {name: {"variant": name} for name in fits}
    config = parse_config(with_(compare=models, niah={"kinds": ["pk"], "fit": {"steps": 1}, "fits": fits}), "x")
    assert stage_settings(config, "niah", "titans")["niah"]["fits"] == {}
    own = parse_config(stage_settings(config, "niah", "mac"), "x")
    assert set(own.niah.fits) <= set(own.models)
    assert own.niah.fit_of("mac").steps == 3


@pytest.mark.parametrize("tokenizer", ["byte", "bpe", "nucleotide"])
def test_text_is_not_turned_and_bases_are_by_default(tokenizer):
    settings = with_(data={**SMALLEST["data"], "tokenizer": {"kind": tokenizer}})
    train = parse_config(settings, "x").train
    assert train.reverse_complement is None  # what the files hold may not be known yet
    assert (train.turned(text=True), train.turned(text=False)) == (0.0, 0.5)
    if tokenizer != "byte":
        train = parse_config(settings | {"train": {"reverse_complement": 0.25}}, "x").train
        assert train.turned(text=False) == 0.25
        with pytest.raises(ValueError, match=r"train\.reverse_complement is 0\.25, and text has no other strand"):
            train.turned(text=True)


@pytest.mark.parametrize(
    ("tokenizer", "size", "said"),
    [
        ({"kind": "byte"}, 300, r"model\.vocab_size is 300, the tokens of data\.tokenizer\.kind byte are 259"),
        ({"kind": "byte"}, 259, None),
        ({"kind": "byte"}, 8, None),
        ({"kind": "bpe", "vocab_size": 2000}, 300, r"is 300, the tokens of data\.tokenizer\.vocab_size are 2,000"),
        ({"kind": "bpe", "vocab_size": 2000}, 2000, None),
        ({"kind": "bpe", "vocab_size": 2000}, 8, None),
    ],
)
def test_a_vocabulary_that_the_model_has_not_is_found_before_training(tmp_path, tokenizer, size, said):
    (tmp_path / "a.txt").write_text("a")
    data = {"sources": [{"path": str(tmp_path / "a.txt"), "kind": "text"}], "tokenizer": tokenizer}
    config = parse_config({"run": "x", "data": data, "model": {"vocab_size": size}}, "x")
    with pytest.raises(ValueError, match=said) if said else nullcontext():
        check_run(config)


def test_a_stage_of_one_model_or_dataset_depends_on_that_alone():
    datasets = [{"path": "a.csv"}, {"path": "b.csv"}]
    few = parse_config(with_(downstream={"datasets": datasets[:1]}), "x")
    more = parse_config(
        with_(
            compare={"mac": {"variant": "mac"}},
            train={"transformer": True},
            downstream={"datasets": datasets, "finetune": {"lr": [0.1]}, "hub": [{"name": "h", "repo": "a/b"}]},
        ),
        "x",
    )
    assert more.models == ["titans", "transformer", "mac"]
    assert more.datasets == ["a", "b"]
    assert stage_settings(few, "train", "titans") == stage_settings(more, "train", "titans")
    assert stage_settings(few, "prepare", "a") == stage_settings(more, "prepare", "a")
    assert parse_config(stage_settings(more, "table", "a"), "x").datasets == ["a"]
    assert stage_settings(few, "fit", "a", "titans") == stage_settings(more, "fit", "a", "titans")
    assert parse_config(stage_settings(more, "train", "mac"), "x").compare == {"mac": {"variant": "mac"}}
    assert parse_config(stage_settings(more, "train", "transformer"), "x").models == ["titans", "transformer"]
    assert parse_config(stage_settings(more, "score", "b", "h"), "x").downstream.hub == more.downstream.hub
    slower = more.model_copy(update={"train": more.train.model_copy(update={"lr": 1.0})})
    for model, same in (("none", True), ("h", True), ("mac", False)):
        assert (stage_settings(slower, "score", "b", model) == stage_settings(more, "score", "b", model)) == same
    assert parse_config(stage_settings(more, "score", "b", "mac"), "x").datasets == ["b"]


# -------------------------------------------------------------------------------- pinned versions


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    return {normal(name): version for name, _, version in (line.strip().partition("==") for line in lines) if version}


def test_environment_constraints_and_pyproject_name_the_same_versions():
    constraints = pins(line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pins(next(entry["pip"] for entry in conda if isinstance(entry, dict))) == constraints
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    for requirement in declared:
        assert normal(re.split(r"[\s\[<>=!~;]", requirement)[0]) in constraints, f"{requirement} is not pinned"
    assert constraints["torch"] == "2.13.0"
    python = next(entry for entry in conda if isinstance(entry, str) and entry.startswith("python"))
    assert python.removeprefix("python=") in project["requires-python"]
    assert project["license"] == "Apache-2.0"


def test_the_sheet_of_bacteria_is_four_species_in_seventeen_genomes(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("configs/bacteria/bacteria.yaml")
    assert len(config.data.sources) == 17
    assert len({source.species for source in config.data.sources}) == 4
    assert config.run == "bacteria"
