"""The table of ablations: a row per model, true to what the stages left, each beside the right published row."""

import json

import pytest
from made_up import COMPARE, MODELS, ROOT, evaluated, full_config, full_run, full_settings, needle, write

from titans_genomics.config import load_config, parse_config
from titans_genomics.tasks.ablations import ablations, published, text


@pytest.fixture
def folder(tmp_path):
    return full_run(tmp_path)


def rows_of(result):
    return {row["model"]: row for row in result["rows"]}


def test_a_row_for_every_model_with_what_the_stages_left(folder):
    result = ablations(full_config(), folder)
    assert json.loads((folder / "ablations.json").read_text()) == result
    rows = rows_of(result)
    assert tuple(rows) == MODELS
    assert {name: row["changes"] for name, row in rows.items()} == {"titans": {}, "transformer": {}, **COMPARE}
    assert rows["mac"]["parameters"] == 28_524
    assert rows["mac"]["tokens"] == 25_600
    assert rows["mac"]["seconds"] == 75.2
    assert rows["no_conv"]["bits_per_base"]["value"] == 1.93
    assert rows["no_conv"]["bits_per_base"]["ci95"] == pytest.approx([1.92, 1.94])
    assert rows["no_conv"]["bits_per_base"]["difference"] == pytest.approx(0.03)
    assert rows["titans"]["needle"]["recall"] == pytest.approx((0.65 + 0.252) / 2)
    assert rows["titans"]["needle"]["gain_recall"] == pytest.approx((0.4 + 0.002) / 2)
    assert rows["mac"]["needle"]["difference"] == pytest.approx(0.252 - (0.65 + 0.252) / 2)
    assert rows["mac"]["tuned"] is None


def test_downstream_is_by_the_first_method_that_there_is(folder):
    rows = rows_of(ablations(full_config(), folder))
    own = {name: row["downstream"]["promoters"] for name, row in rows.items()}
    assert own["titans"]["method"] == "finetune"
    assert own["titans"]["value"] == 0.91
    assert own["mac"]["method"] == "probe"
    assert own["mac"]["difference"] == pytest.approx(0.86 - 0.87), "to the base by the same method"
    assert own["no_conv"] is None, "no row of it"
    settings = full_settings()
    settings["downstream"]["methods"] = ["probe", "finetune", "kmer"]
    own = rows_of(ablations(parse_config(settings, "x"), folder))["titans"]["downstream"]["promoters"]
    assert (own["method"], own["value"]) == ("probe", 0.87)


def test_a_paired_interval_stands_where_there_is_one(folder):
    assert rows_of(ablations(full_config(), folder))["mac"]["bits_per_base"]["difference_ci95"] is None
    result = evaluated(**dict.fromkeys(MODELS, 1.9))
    for name in MODELS[1:]:
        result["overall"]["models"][name]["difference_to_titans"] = {"bits_per_base": 0.0, "ci95": [-0.002, 0.003]}
    write(folder, "evaluate/evaluate.json", result)
    result = ablations(full_config(), folder)
    assert rows_of(result)["mac"]["bits_per_base"]["difference_ci95"] == [-0.002, 0.003]
    assert "(-0.0020 to +0.0030)" in text(result)


def test_a_paired_interval_of_a_dataset_stands_where_there_is_one(folder):
    path = folder / "downstream" / "promoters" / "table.json"
    found = json.loads(path.read_text())
    next(row for row in found["rows"] if row["model"] == "mac")["differences"]["titans"] = {
        "difference": -0.01,
        "ci95": [-0.02, 0.0],
    }
    path.write_text(json.dumps(found))
    rows = rows_of(ablations(full_config(), folder))
    assert rows["mac"]["downstream"]["promoters"]["difference_ci95"] == [-0.02, 0.0]
    assert rows["titans"]["downstream"]["promoters"]["difference_ci95"] is None


def test_needles_after_training_on_them(folder):
    found = needle(*MODELS)
    found["tuned"] = needle("transformer", "titans", *COMPARE)["models"]
    write(folder, "needle/needle.json", found)
    result = ablations(full_config(), folder)
    rows = rows_of(result)
    assert rows["transformer"]["tuned"]["recall"] > rows["titans"]["tuned"]["recall"]
    assert "needle recall, tuned" in result["table"]["columns"]


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, "LMM"),
        ({"variant": "mac"}, "MAC"),
        ({"variant": "mag", "window": 32}, "MAG"),
        ({"variant": "mal"}, "MAL"),
        ({"memory_layers": 1}, "linear memory"),
        ({"conv": 0}, "without convolution"),
        ({"conv": 3}, "LMM"),
        ({"momentum": False}, "without momentum"),
        ({"forgetting": False}, "without weight decay"),
        ({"variant": "mac", "persistent": 0}, "without persistent memory"),
        ({"persistent": 0}, "LMM"),
        ({"memory_layers": 3}, None),
        ({"conv": 0, "momentum": False}, None),
        ({"variant": "mac", "conv": 0}, None),
        ({"variant": "mal", "persistent": 0}, None),
        ({"d_model": 64}, None),
        ({"chunk": 16}, None),
    ],
    ids=str,
)
def test_the_published_row_follows_the_settings(changes, row):
    config = parse_config(full_settings() | {"compare": {"other": changes}}, "x")
    found = published(config, "other")
    assert (found and found["name"]) == row
    assert published(config, "transformer") is None


def test_the_published_row_is_that_of_the_settings_not_of_the_name():
    settings = full_settings()
    settings["model"]["variant"] = "mac"
    config = parse_config(settings | {"compare": {"mag": {"variant": "lmm"}, "bare": {"persistent": 0}}}, "x")
    assert [published(config, name)["name"] for name in ("titans", "mag", "bare")] == [
        "MAC",
        "LMM",
        "without persistent memory",
    ]


def test_the_shipped_config_stands_beside_every_row_of_the_paper():
    config = load_config(ROOT / "configs" / "ablations.yaml")
    found = [published(config, name) for name in config.models]
    assert {row["name"] for row in found if row} == {
        "LMM", "MAC", "MAG", "MAL", "linear memory", "without convolution", "without momentum", "without weight decay",
        "without persistent memory",
    }  # fmt: skip
    assert next(row for row in found if row and row["name"] == "without momentum")["perplexity"] == 28.98


def test_the_printed_table_lines_up_and_says_it_all(folder):
    result = ablations(full_config(), folder)
    printed = text(result).splitlines()
    assert len(printed) == 2 + len(MODELS) + 2
    at = printed[0].index("bits per base") + len("bits per base")
    assert all(line[:at].rstrip() == line[:at] and line[at : at + 2] == "  " for line in printed[:7]), (
        "columns end together"
    )
    for said in (
        "variant: mac",
        "memory_layers: 4",
        "1.8900 (1.8800 to 1.9000)",
        "+0.0300",
        "0.910 (0.890 to 0.930)",
        "45.1%",
        "+20.1%",
        "97.95",
    ):
        assert said in "\n".join(printed), said
    assert "promoters (accuracy)" in printed[0]
    assert "0.860 (0.840 to 0.880) probe" in "\n".join(printed), "two methods in one column: each cell says its own"
    assert printed[-1] == "paper: arXiv 2501.00663, Table 5"


def test_what_was_not_asked_for_has_no_column(folder):
    settings = full_settings() | {"downstream": {}, "needle": {}}
    result = ablations(parse_config(settings, "x"), folder)
    assert not [name for name in result["table"]["columns"] if "needle" in name or "promoters" in name]


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("train/mac/train.json", "train --model mac"),
        ("evaluate/evaluate.json", "evaluate"),
        ("downstream/promoters/table.json", "downstream table --dataset promoters"),
        ("needle/needle.json", "needle"),
    ],
)
def test_a_missing_stage_is_named(folder, missing, command):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"run `titans-genomics {command}` first"):
        ablations(full_config(), folder)
    assert not (folder / "ablations.json").exists()


def test_results_without_one_of_the_models_are_named(folder):
    write(folder, "evaluate/evaluate.json", evaluated())
    with pytest.raises(
        ValueError, match=r"evaluate\.json: has no figures of the model 'mac'; run `titans-genomics evaluate` again"
    ):
        ablations(full_config(), folder)
    (folder / "evaluate" / "evaluate.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluate\.json: cannot be read as JSON"):
        ablations(full_config(), folder)
