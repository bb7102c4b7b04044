"""The benchmark suites: complete, of one mind with the schema, and with figures that say where they come from."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest
from pydantic import ValidationError

from titans_genomics import suites
from titans_genomics.suites import SUITES, HubFiles, Suite, SuiteDataset, ZenodoFile, find, other_sizes

EVERY = [dataset for suite in SUITES.values() for dataset in suite.datasets]


@pytest.mark.parametrize(
    ("name", "count"),
    [("genomic_benchmarks", 8), ("nucleotide_transformer", 18), ("nucleotide_transformer_revised", 18), ("gue", 28)],
)
def test_a_suite_is_complete(name, count):
    suite = SUITES[name]
    assert suite.name == name
    assert len(suite.datasets) == count
    assert find(name) == list(suite.datasets)
    assert {dataset.suite for dataset in suite.datasets} == {name}


def test_the_mapping_of_suites_reads_nothing_before_it_is_asked():
    code = "import sys; from titans_genomics.suites import SUITES; assert 'gue' in SUITES and len(list(SUITES)) == len(SUITES); import titans_genomics.suites as s; print(s._suite.cache_info().currsize, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "False"]
    assert "nothing" not in SUITES
    with pytest.raises(KeyError):
        SUITES["nothing"]


def test_names_are_unique_and_none_is_that_of_a_suite():
    twice = [name for name, count in Counter([*SUITES, *(d.name for d in EVERY)]).items() if count > 1]
    assert not twice
    assert not [d.name for d in EVERY if len(find(d.name)) != 1 or find(d.name)[0] is not d]


@pytest.mark.parametrize("dataset", EVERY, ids=lambda dataset: dataset.name)
def test_a_dataset_is_complete(dataset: SuiteDataset):
    assert not re.search(r"\{(official|name)\}", dataset.model_dump_json())
    assert dataset.official in dataset.name
    assert re.search(dataset.official, str(dataset.download))
    for published in dataset.published:
        assert re.search(r"arXiv \d{4}\.\d{5}|20\d\d", published.source)
        assert published.protocol.split(" ")[0] in {"hyenadna", "caduceus", "genomic_benchmarks", "dnabert2"}
        assert 10 < published.value <= 100  # in per cent, not as a share
    assert len({(p.model, p.source) for p in dataset.published}) == len(dataset.published)
    if dataset.length is not None:
        known = [bases for bases in dataset.length if bases is not None]
        assert known == sorted(known)
    if dataset.sizes.train is not None and dataset.sizes.test is not None:
        assert dataset.sizes.train > dataset.sizes.test


def test_what_the_genomic_benchmarks_paper_counts():
    by_name = {dataset.name: dataset for dataset in SUITES["genomic_benchmarks"].datasets}
    assert {name for name, d in by_name.items() if d.classes == 3} == {"human_ensembl_regulatory"}
    assert {name for name, d in by_name.items() if d.max_length == 1024} == {"dummy_mouse_enhancers_ensembl"}
    assert sum(d.max_length == 512 for d in by_name.values()) == 7
    assert by_name["human_nontata_promoters"].sizes.model_dump() == {"train": 27_097, "validation": None, "test": 9_034}
    assert all(isinstance(d.download, ZenodoFile) and d.metric == "accuracy" for d in by_name.values())


def test_figures_of_different_protocols_are_labelled_apart():
    figures = {(p.model, p.source.split(" ")[0], p.protocol): p.value for p in find("human_ocr_ensembl")[0].published}
    assert figures["HyenaDNA", "HyenaDNA", "hyenadna (selects on test)"] == 80.9
    assert figures["HyenaDNA", "Caduceus", "caduceus (90/10, five seeds)"] == 78.3
    assert figures["Titans LMM", "Titans", "hyenadna (selects on test)"] == 79.9
    titans = Counter(d.name for d in EVERY for p in d.published if p.source.startswith("Titans"))
    assert set(titans.values()) == {7}
    assert len(titans) == 5


@pytest.mark.parametrize(
    ("model", "source", "mean"),
    [  # means over the eight (Titans: five) datasets, added up from the columns of the published tables
        ("CNN", "GenomicBenchmarks", 79.24),
        ("HyenaDNA", "HyenaDNA", 88.46),
        ("Caduceus-Ph", "Caduceus", 86.60),
        ("Caduceus-PS", "Caduceus", 86.90),
        ("Titans LMM", "Titans", 86.12),
        ("Based", "Titans", 85.88),
        ("DNABERT-2", "DNABERT-2", 66.80),  # as the paper gives it
    ],
)
def test_a_published_column_adds_up(model, source, mean):
    values = [p.value for d in EVERY for p in d.published if p.model == model and p.source.split(" ")[0] == source]
    assert sum(values) / len(values) == pytest.approx(mean, abs=0.0101)


def test_metrics_of_the_nucleotide_transformer_tasks():
    metric = {d.official: d.metric for d in SUITES["nucleotide_transformer"].datasets}
    assert metric["splice_sites_all"] == "accuracy"
    assert {name for name, value in metric.items() if value == "f1"} == {
        "promoter_all", "promoter_tata", "promoter_no_tata", "splice_sites_acceptors", "splice_sites_donors",
    }  # fmt: skip
    assert sum(value == "mcc" for value in metric.values()) == 12
    assert {d.metric for d in SUITES["nucleotide_transformer_revised"].datasets} == {"mcc"}


def test_the_revised_tasks_have_as_many_sequences_as_their_files():
    sizes = [d.sizes for d in SUITES["nucleotide_transformer_revised"].datasets]
    assert sum(s.test for s in sizes) == 38_822
    assert sum(s.train + s.test for s in sizes) == 532_064


def test_gue_has_a_validation_split_and_two_tasks_of_several_classes():
    gue = SUITES["gue"].datasets
    assert all(d.sizes.validation and any(f.endswith("dev.csv") for f in d.download.files) for d in gue)
    assert {d.name: d.classes for d in gue if d.classes > 2} == {"gue_splice_reconstructed": 3, "gue_virus_covid": 9}
    assert {d.name for d in gue if d.metric != "mcc"} == {"gue_virus_covid"}


def test_the_two_sets_of_nucleotide_transformer_tasks_share_nothing():
    original, revised = SUITES["nucleotide_transformer"].datasets, SUITES["nucleotide_transformer_revised"].datasets
    assert all(d.name.startswith("nt_") for d in original)
    assert all(d.name.startswith("ntr_") for d in revised)
    assert not {d.download.repo for d in original} & {d.download.repo for d in revised}
    assert not {place for d in original for place in d.places} & {place for d in revised for place in d.places}
    assert all(isinstance(d.download, HubFiles) for d in (*original, *revised))


# ------------------------------------------------------------------------------------------ wrong names


def test_a_name_of_both_sets_is_explained():
    with pytest.raises(ValueError, match="2 different datasets") as caught:
        find("promoter_all")
    said = str(caught.value)
    assert "nt_promoter_all (the original 18 tasks, histone marks of yeast" in said
    assert "ntr_promoter_all (the revised 18 tasks, histone marks of human K562" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("virus_covid", "'virus_covid' is called gue_virus_covid here"),
        ("human_nontata_promotors", "Near it: human_nontata_promoters"),
        ("glue", "Near it: gue"),
        ("zzz", r"There are: genomic_benchmarks \(dummy_mouse.*; gue \(.*gue_virus_covid\)"),
    ],
)
def test_a_wrong_name_is_met_with_the_right_ones(name, said):
    with pytest.raises(ValueError, match=said):
        find(name)


# ------------------------------------------------------------------------------- copies of another size


def test_a_copy_of_the_official_size_is_not_remarked_on():
    assert other_sizes(find("nt_H3")[0], {"train": 13_468, "validation": 0, "test": 1_497}) is None
    assert other_sizes(find("nt_promoter_tata")[0], {"train": 7, "test": 3}) is None  # its size is not known


def test_a_copy_of_the_other_set_is_recognised():
    said = other_sizes(find("nt_promoter_all")[0], {"train": 30_000, "test": 1_584})
    assert "numbers of ntr_promoter_all, a different dataset" in said
    said = other_sizes(find("nt_promoter_all")[0], {"train": 30_000, "test": 1_500})
    assert "30,000 train sequences (official: 53,276), 1,500 test sequences (official: 5,920)" in said
    assert "not comparable" in said


# ------------------------------------------------------------------------------------------- the schema


def suite_file(**changes) -> Suite:
    content = {
        "title": "T", "homepage": "https://example.org", "note": "n", "metric": "mcc",
        "download": {"record": 1, "file": "{official}.zip"},
        "columns": {"x": {"model": "M", "protocol": "p", "source": "s"}},
        "datasets": {"a": {"title": "A", "published": {"x": 50.0}}},
    }  # fmt: skip
    return suites._SuiteFile.model_validate(content | changes).suite("s")


def test_what_stands_once_in_a_file_is_filled_in():
    suite = suite_file(prefix="p_", places=["in/{official}"])
    assert suite.datasets[0].name == "p_a"
    assert suite.datasets[0].places == ("in/a",)
    assert suite.datasets[0].download == ZenodoFile(record=1, file="a.zip")
    assert suite.datasets[0].published[0].model_dump() == {"model": "M", "protocol": "p", "source": "s", "value": 50.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrik": "mcc"}, "metrik"),
        ({"datasets": {"a": {"title": "A", "lenght": 5}}}, "lenght"),
        ({"datasets": {"a": {"title": "A", "metric": "rmse"}}}, "metric"),
        ({"datasets": {"a": {"title": "A", "published": {"x": 101}}}}, "less than or equal to 100"),
        ({"datasets": {"a": {"title": "A", "published": {"y": 50}}}}, "'y' of published is not described in columns"),
        ({"datasets": {"a": {"title": "A", "places": ["../secret"]}}}, "places"),
        ({"datasets": {"a": {"title": "A", "places": ["/etc"]}}}, "places"),
        ({"datasets": {"a": {"title": "A", "sizes": {"train": 0}}}}, "train"),
        ({"datasets": {"a b": {"title": "A"}}}, "name"),
        ({"metric": None}, "metric"),
        ({"columns": {"x": {"model": "M", "protocol": "p"}}}, "source"),
        ({"download": {"repo": "a/b", "revision": "main", "files": ["x"]}}, "revision"),
        ({"datasets": {}}, "datasets"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split(" ")[0],
)
def test_a_mistake_in_a_file_is_an_error(changes, said):
    with pytest.raises(ValidationError, match=said):
        suite_file(**changes)
