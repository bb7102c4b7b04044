"""The schema, its copies on disk, and what is said about a config that is wrong."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from titans_genomics.config import STAGES, Config, load_config, parse_config, stage_settings

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SMALLEST = {"run": "x", "data": {"sources": [{"path": "genome.fa"}]}}


def with_(**sections):
    return SMALLEST | sections


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_after_their_run(path):
    config = load_config(path)
    assert config.run == path.stem
    missing = [str(file) for _, file in config.files() if not (ROOT / file).is_file()]
    assert not missing


def test_default_config_shows_every_key():
    def keys(settings, model):
        assert set(settings) == set(model.model_fields), model.__name__
        for name, field in model.model_fields.items():
            if isinstance(settings[name], dict):
                keys(settings[name], field.annotation)

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
        pytest.param(with_(trian={}), "trian: unknown key; known here: data, downstream, evaluate", id="section"),
        pytest.param(with_(train={"learning_rate": 1}), "train.learning_rate: unknown key", id="key"),
        pytest.param(
            with_(train={"wandb": {"projct": "x"}}),
            "train.wandb.projct: unknown key; known here: entity, mode",
            id="nested",
        ),
        pytest.param(
            {"run": "x", "data": {"sources": [{"path": "a.fa", "sort": "fasta"}]}},
            "data.sources.0.sort: unknown key; known here: kind, name",
            id="list",
        ),
        pytest.param(with_(train={"lr": -1}), "train.lr: Input should be greater than 0 (is -1)", id="range"),
        pytest.param(with_(train={"lr": float("nan")}), "train.lr", id="nan"),
        pytest.param(with_(model={"variant": "mamba"}), "'lmm', 'mac', 'mag' or 'mal' (is 'mamba')", id="choice"),
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
        pytest.param(with_(data={"sources": [{"path": "g.fa", "weight": 0}]}), "every weight is 0", id="weights"),
        pytest.param(
            with_(downstream={"species": [{"species": "E", "path": "g.fa"}]}), "two or more classes", id="classes"
        ),
        pytest.param(
            with_(downstream={"species": [{"species": "E", "source": "gg"}, {"species": "F", "path": "g.fa"}]}),
            "source 'gg' is not one of data.sources (genome)",
            id="source",
        ),
        pytest.param(
            with_(downstream={"per_class": 10, "test": 0.01}), "none to train on or none to test on", id="none to test"
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
        ("run: x\n", "data: Field required"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_missing_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such config file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_settings_of_a_stage_are_a_config_of_their_own(stage):
    config = load_config(ROOT / "configs" / "tiny.yaml")
    again = parse_config(json.loads(json.dumps(stage_settings(config, stage))), "settings")
    for section in STAGES[stage]:
        assert getattr(again, section) == getattr(config, section)


def test_a_stage_depends_on_its_own_sections_only():
    config = load_config(ROOT / "configs" / "tiny.yaml")

    def touched(**sections):
        other = config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in sections.items()})
        return {stage for stage in STAGES if stage_settings(config, stage) != stage_settings(other, stage)}

    assert touched(train={"lr": 1.0}) == {"train", "evaluate", "downstream", "report"}
    assert touched(data={"iupac": "random"}) == set(STAGES)
    assert touched(downstream={"kmer": 2}) == {"downstream", "report"}
    assert touched(evaluate={"piece": 7}) == {"evaluate", "report"}
    assert touched(report={"title": "x"}) == {"report"}


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
