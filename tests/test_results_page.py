"""docs/results.md: only what was run stands there, all of it, and the page is in step with the files beside it."""

import json
import shutil

import pytest
from made_up import COMPARE, MODELS, ROOT, full_config, full_run, full_settings, write

from titans_genomics.config import load_config
from titans_genomics.report.results_page import TASKS, collect_results, write_page
from titans_genomics.report.results_tables import NOTHING, render, rows
from titans_genomics.tasks.ablations import ablations

PAGE = ROOT / "docs" / "results.md"
FILES = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A working directory with a config, the results of its run, and a page."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "configs/full.yaml", json.dumps(full_settings()))
    ablations(full_config(), full_run(tmp_path / "results" / "full"))
    write(
        tmp_path,
        "docs/results.md",
        "# Results\n\nabove\n\n<!-- results:begin -->\n\nold\n\n<!-- results:end -->\n\nbelow\n",
    )
    return tmp_path


def collected(repository, name="full"):
    out = repository / "docs" / "results" / f"{name}.json"
    return out, collect_results(
        repository / "configs" / "full.yaml", full_config(), repository / "results" / "full", out
    )


def lines_of(text, *said):
    """The table rows in which all of ``said`` stands."""
    return [line for line in text.splitlines() if line.startswith("| ") and all(one in line for one in said)]


def test_the_page_is_in_step_with_the_files_beside_it(tmp_path):
    copy = tmp_path / "results.md"
    shutil.copy(PAGE, copy)
    write_page(FILES, copy)
    assert copy.read_text() == PAGE.read_text(), "write it again: titans-genomics results"
    for file in FILES:
        run = json.loads(file.read_text())
        config = ROOT / run["config"]
        assert config.is_file(), f"{file.name} names {run['config']}"
        settings = load_config(config)
        assert settings.run == run["run"], f"{file.name} is not of {run['config']}"
        assert settings.trained == ("models" in run)
        for models in [part["models"] for part in (run, *(run.get(task, {}) for task in TASKS)) if "models" in part]:
            assert set(settings.models) <= set(models), f"{file.name} is not of {run['config']}"
        assert file.stem == run["run"]


def test_a_file_has_what_the_page_shows_and_where_it_is_from(repository):
    out, result = collected(repository)
    assert json.loads(out.read_text()) == result
    assert (result["run"], result["config"]) == ("full", "configs/full.yaml")
    assert result["hardware"]["cpu"] == "A CPU"
    assert result["versions"] == {"pysam": "9.9.9", "torch": "2.13.0"}
    assert result["seeds"] == {"run": 1, "downstream": [0, 1]}
    assert list(result["models"]) == list(MODELS)
    assert {name: own["changes"] for name, own in result["models"].items() if own["changes"]} == COMPARE
    assert result["cost"] == {"training": pytest.approx(5 * 75.2), "needle": 5 * 3.0}
    table = json.loads((repository / "results/full/downstream/promoters/table.json").read_text())
    found = result["datasets"]["promoters"]
    assert found["published"] == table["published"]
    for kept, row in zip(found["rows"], table["rows"], strict=True):
        for key in ("method", "model", "protocol", "seeds", "cost"):
            assert kept[key] == row[key]
        assert kept["test"]["accuracy"]["mean"] == pytest.approx(row["test"]["accuracy"]["mean"])
        assert kept["deduplicated"]["accuracy"]["ci95"] == pytest.approx(row["deduplicated"]["accuracy"]["ci95"])
        assert "trials" not in kept


def test_the_page_shows_every_row_with_its_config(repository):
    out, _ = collected(repository)
    page = repository / "docs" / "results.md"
    write_page([out], page)
    text = page.read_text()
    assert text.startswith("# Results\n\nabove\n\n<!-- results:begin -->\n")
    assert text.endswith("<!-- results:end -->\n\nbelow\n")
    assert "old" not in text
    link = "[configs/full.yaml](../configs/full.yaml)"
    assert (page.parent / "../configs/full.yaml").is_file(), "which is where the link leads"
    ours = lines_of(text, "caduceus", link)
    assert [line.split(" | ")[:3] for line in ours] == [
        ["| Titans LMM, fine-tuned", "0.910 (0.890 to 0.930)", "0.810 (0.790 to 0.830)"],
        ["| Titans LMM, linear probe", "0.870 (0.850 to 0.890)", "0.770 (0.750 to 0.790)"],
        ["| Titans MAC, linear probe", "0.860 (0.840 to 0.880)", "0.760 (0.740 to 0.780)"],
        ["| k-mer counts, linear", "0.840 (0.820 to 0.860)", "0.740 (0.720 to 0.760)"],
    ]
    assert all("| 0, 1 | 28,590 | 1 CPU-hours |" in line for line in ours)
    assert lines_of(text, "HyenaDNA", "0.966", "hyenadna (selects on test)", "HyenaDNA paper")
    assert lines_of(text, "promoters", "200", "60 (30.0%)", "90 (45.0%)")
    assert lines_of(text, "Titans MAC", "28,524", "25,600", "1.8900 (1.8800 to 1.9000)", "-0.0460", link)
    assert lines_of(text, "mac", "variant: mac", "MAC", "97.95")
    assert lines_of(text, "Titans LMM", "512", "65.0% (+40.0)")
    assert lines_of(text, "no_conv", "4,096", "25.2% (+0.2)")
    assert "no &lt;promoter>" in text
    assert lines_of(text, "Markov, order 6", "0.550")
    assert lines_of(text, "1,024", "24", "0.885", "+0.085")
    assert "A CPU, 2 cores; A GPU" in text


def test_writing_again_changes_nothing(repository):
    out, _ = collected(repository)
    page = repository / "docs" / "results.md"
    write_page([out], page)
    first, stored = page.read_text(), out.read_text()
    collected(repository)
    write_page([out], page)
    assert (page.read_text(), out.read_text()) == (first, stored)


def test_runs_on_one_dataset_stand_side_by_side_best_first(repository):
    _, one = collected(repository)
    other = json.loads(json.dumps(one)) | {"run": "other", "config": "configs/other.yaml"}
    other["datasets"]["promoters"]["rows"] = other["datasets"]["promoters"]["rows"][:1]
    other["datasets"]["promoters"]["rows"][0]["test"]["accuracy"]["mean"] = 0.9
    text = render([one, other])
    assert [line.split("[configs/")[1].split(".")[0] for line in lines_of(text, "caduceus", "CPU-hours")] == [
        "full", "other", "full", "full", "full",
    ]  # fmt: skip
    assert len(lines_of(text, "HyenaDNA paper")) == 1, "published once"


def test_what_was_not_run_does_not_stand_there(repository):
    _, result = collected(repository)
    bare = result | {"datasets": {}, "species": None, "needle": None, "variants": None, "ablations": None}
    text = render([bare])
    assert "## Runs" in text
    for absent in ("Labelled", "Ablations", "Needle", "variants", "Species", "HyenaDNA"):
        assert absent not in text
    assert render([]) == NOTHING


def test_a_metric_that_is_not_defined_and_no_clean_test_sequences(repository):
    _, result = collected(repository)
    (first, second, *_), _ = result["datasets"]["promoters"]["rows"], None
    first["deduplicated"], second["test"] = None, {}
    lines = lines_of(render([result]), "caduceus")
    assert lines[0].split(" | ")[2] == ""
    assert lines[-1].split(" | ")[:2] == ["| Titans LMM, linear probe", ""], "it comes last"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Results\n", "needs one line"),
        ("<!-- results:end -->\n<!-- results:begin -->\n", "needs one line"),
        ("<!-- results:begin -->\n<!-- results:begin -->\n<!-- results:end -->\n", "needs one line"),
    ],
    ids=["no marks", "the wrong way round", "twice"],
)
def test_a_page_without_its_marks_is_left_alone(repository, text, said):
    page = repository / "docs" / "results.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=said):
        write_page([], page)
    assert page.read_text() == text


def test_what_is_wrong_with_a_file_is_said(repository):
    out, _ = collected(repository)
    page = repository / "docs" / "results.md"
    again = shutil.copy(out, out.with_name("again.json"))
    with pytest.raises(ValueError, match="another file has the run 'full' too"):
        write_page([out, again], page)
    out.write_text("{")
    with pytest.raises(ValueError, match=r"full\.json: cannot be read as JSON"):
        write_page([out], page)
    with pytest.raises(FileNotFoundError, match="titans-genomics results CONFIG"):
        write_page([out.with_name("none.json")], page)


def test_a_run_is_recorded_whole_or_not_at_all(repository, monkeypatch):
    (repository / "results/full/needle/needle.json").unlink()
    with pytest.raises(FileNotFoundError, match="run `titans-genomics needle` first"):
        collected(repository)
    assert not (repository / "docs" / "results" / "full.json").exists()
    monkeypatch.chdir(repository / "docs")
    with pytest.raises(ValueError, match="lies outside"):
        collected(repository)


def test_columns_of_numbers_stand_at_the_right():
    table = rows(["name", "value", "note"], [["a|b", "+1.0", "1"], ["c", "", "two"]])
    assert table == "| name | value | note |\n| --- | ---: | --- |\n| a\\|b | +1.0 | 1 |\n| c |  | two |"
