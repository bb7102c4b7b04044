"""Labelled datasets from end to end: official copies in either layout, every method and model, twice the same; bad input in one line."""

import json
import re
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import yaml
from small import small_settings

from titans_genomics import cli
from titans_genomics.config import parse_config
from titans_genomics.data.store import tokenize
from titans_genomics.suites import find
from titans_genomics.tasks import run as whole
from titans_genomics.training import train

NAME = "human_nontata_promoters"
MODELS = ("titans", "transformer", "mac", "mag", "mal")
OF_MODELS = ("finetune", "scratch", "probe", "knn")
PLANTED = {"test": 60, "verbatim": 8, "near": 12, "verbatim_share": 8 / 60, "near_share": 12 / 60}
MOTIF = "TATAAGGC"


def opposite(sequence):
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def promoters():
    """(split, class, name, sequence): "positive" ones have a motif twice. Of the 60 of test, 8 stand in train, half of them on
    the other strand; of 4 more a half does."""
    rng = np.random.default_rng(2)

    def drawn(kind):
        letters = rng.choice(list("ACGT"), rng.integers(40, 81))
        if kind == "positive":
            for start in (4, 24):
                letters[start : start + len(MOTIF)] = list(MOTIF)
        return "".join(letters)

    rows = [
        (split, kind, f"{split}_{i:03}", drawn(kind))
        for split, count in (("train", 60), ("test", 30))
        for kind in ("negative", "positive")
        for i in range(count)
    ]
    of = {(split, kind): [r[3] for r in rows if r[:2] == (split, kind)] for split, kind, *_ in rows}
    for kind in ("negative", "positive"):
        known, asked = of["train", kind], of["test", kind]
        asked[:4] = known[0], opposite(known[1]), known[2], opposite(known[3])
        asked[4:6] = known[4][:36] + asked[4][:20], asked[5][:20] + opposite(known[5])[-36:]
    return [(split, kind, name, of[split, kind].pop(0)) for split, kind, name, _ in rows]


def as_folders(place, rows):
    """The layout of the package genomic-benchmarks."""
    for split, kind, name, sequence in rows:
        folder = place / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(sequence)


def as_tables(place, rows):
    """The layout of the copies on the Hub."""
    place.mkdir(parents=True)
    for split in ("train", "test"):
        own = [f"{sequence},{kind}\n" for part, kind, _, sequence in rows if part == split]
        (place / f"{split}.csv").write_text("sequence,label\n" + "".join(own))


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_folder):
    """A folder with the genome, and benchmark_data in both layouts."""
    folder = tmp_path_factory.mktemp("downstream")
    shutil.copy(small_folder / "genome.fa", folder)
    as_folders(folder / "benchmark_data" / NAME, promoters())
    as_tables(folder / "tables" / "genomic_benchmarks" / NAME, promoters())
    return folder


@pytest.fixture(scope="module")
def settings(place):
    """A run with every variant and a Transformer, of three steps each."""
    content = small_settings(place, max_steps=3, validate_every=3, checkpoint_every=3, transformer=True)
    return content | {
        "model": content["model"] | {"segment": 32, "window": 32},
        "compare": {name: {"variant": name} for name in ("mac", "mag", "mal")},
        "downstream": {
            "suites": [NAME],
            "folder": str(place / "benchmark_data"),
            "download": False,
            "methods": [*OF_MODELS, "cnn", "kmer"],
            "seeds": [0, 1],
            "kmer": 4,
            "neighbours": [1, 5],
            "bootstrap": 100,
            "finetune": {"lr": [0.005], "batch_size": [32], "epochs": 1},
        },
    }


@pytest.fixture(scope="module")
def trained(place, settings):
    """The results folder of a run that is tokenised and trained."""
    config = parse_config(settings, "downstream")
    tokenize(config, config.folder / "tokens")
    for model in config.models:
        train(config, config.folder / "tokens", config.folder / "train" / model, model=model)
    return config.folder


def beside(trained, place, settings, name, **downstream):
    """The config of the same run in another folder, with copies of its tokens and models."""
    content = settings | {"results": str(place / name), "downstream": settings["downstream"] | downstream}
    config = parse_config(content, name)
    for part in ("tokens", "train"):
        shutil.copytree(trained / part, config.folder / part)
    return config


@pytest.fixture(scope="module")
def measured(trained, settings):
    """What a run on the folder of files says and writes."""
    config = parse_config(settings, "measured")
    said = whole.run(config, NAME, trained / "tokens")
    return config, said, read(config.folder / "downstream" / NAME / "table.json")


def read(path):
    return json.loads(path.read_text())


def rows_of(table):
    return {(row["method"], row["model"]): row for row in table["rows"]}


def without_cost(table):
    """A table without seconds, rates and the machine; fails when those are not there."""
    rows = [{key: value for key, value in row.items() if key != "cost"} for row in table["rows"]]
    assert all(row["cost"]["seconds"] > 0 and row["cost"]["sequences_per_second"] > 0 for row in table["rows"])
    return table | {"rows": rows}


# --------------------------------------------------------------------------------------- a whole table


def test_every_model_and_baseline_has_a_row_with_intervals(measured):
    config, said, table = measured
    rows = rows_of(table)
    assert set(rows) == {(method, model) for method in OF_MODELS for model in MODELS} | {
        ("cnn", "none"),
        ("kmer", "none"),
    }
    assert len(table["rows"]) == len(rows)
    for (method, model), row in rows.items():
        for part in ("test", "deduplicated"):
            low, high = row[part]["accuracy"]["ci95"]
            assert 0 <= low <= row[part]["accuracy"]["mean"] <= high <= 1
            # networks of one epoch may say one class for all, and another in another seed: one half in every resample
            assert low < high or method in ("finetune", "scratch", "cnn")
        assert re.search(rf"^{method} +{model} +{row['test']['accuracy']['mean']:.4f} \[", said, re.M)
        assert (row["test_sequences"], row["deduplicated_sequences"]) == (60, 48)
        assert row["selected_on"] == "validation"
        assert (config.folder / "downstream" / NAME / row["score"]).is_file()
    means = [row["test"]["accuracy"]["mean"] for row in table["rows"]]
    assert means == sorted(means, reverse=True)


def test_what_can_be_learned_is_learned(measured):
    kmer = rows_of(measured[2])["kmer", "none"]
    assert kmer["test"]["accuracy"]["ci95"][0] > 0.75
    assert kmer["deduplicated"]["accuracy"]["ci95"][0] > 0.7
    assert kmer["hyperparameters"]["k"] == 4


def test_models_have_as_many_parameters(measured):
    sizes = {
        model: row["cost"]["parameters"] for (method, model), row in rows_of(measured[2]).items() if method == "scratch"
    }
    assert max(sizes.values()) < 1.05 * min(sizes.values())


def test_leaks_are_what_was_planted(measured):
    leaks = measured[2]["dataset"]["leaks"]
    assert {key: leaks[key] for key in PLANTED} == pytest.approx(PLANTED)


def test_a_copy_of_another_size_is_said_to_be_one(measured):
    (warning,) = measured[2]["dataset"]["warnings"]
    assert "120 train sequences (official: 27,097), 60 test sequences (official: 9,034)" in warning
    assert "published figures are not comparable with it" in warning


def test_published_rows_stand_beside_ours(measured):
    published = measured[2]["published"]
    assert len(published) == len(find(NAME)[0].published)
    lmm = next(row for row in published if row["model"] == "Titans LMM")
    assert lmm["value"] == pytest.approx(0.966)
    assert "selects on test" in lmm["protocol"]
    assert "2501.00663" in lmm["source"]
    assert f"published: Titans LMM 0.9660 ({lmm['protocol']}; {lmm['source']})" in measured[1]


def test_another_folder_gives_the_same_table(trained, place, settings, measured):
    config = beside(trained, place, settings, "again")
    said = whole.run(config, NAME, config.folder / "tokens")
    assert said == measured[1]
    assert without_cost(read(config.folder / "downstream" / NAME / "table.json")) == without_cost(measured[2])


def test_the_other_layout_gives_the_same_numbers(trained, place, settings, measured):
    """Of a copy in the suite's own folder, which names no sequences."""
    methods = ["finetune", "scratch", "probe", "cnn", "kmer"]
    config = beside(
        trained, place, settings, "of_tables", folder=str(place / "tables"), models=["titans"], methods=methods
    )
    whole.run(config, NAME, config.folder / "tokens")
    table = read(config.folder / "downstream" / NAME / "table.json")
    ours, theirs = rows_of(without_cost(measured[2])), rows_of(without_cost(table))
    assert len(theirs) == len(methods)
    for row, found in theirs.items():
        differing = {key for key in {*found, *ours[row]} if found.get(key) != ours[row].get(key)}
        assert differing <= {"sequences_sha256"}, "files differ by names alone"
    found, expected = table["dataset"], measured[2]["dataset"]
    assert {key for key in expected if found[key] != expected[key]} == {"source"}
    assert found["source"]["layout"] != expected["source"]["layout"]


def test_what_is_done_is_not_done_again(measured):
    config = measured[0]
    folder = config.folder / "downstream" / NAME
    kept = [path for name in ("fit.json", "model.safetensors", "*.npz") for path in folder.rglob(name)]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) > 20
    whole.run(config, NAME, config.folder / "tokens")
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert without_cost(read(folder / "table.json")) == without_cost(measured[2])


def test_a_protocol_that_chooses_on_the_test_set_says_so(trained, place, settings):
    config = beside(
        trained, place, settings, "optimistic", protocol="hyenadna", models=["titans"], methods=["finetune", "kmer"]
    )
    said = whole.run(config, NAME, config.folder / "tokens")
    table = read(config.folder / "downstream" / NAME / "table.json")
    assert "optimistic" in said.splitlines()[0]
    assert (table["protocol"], table["selected_on"]) == ("hyenadna", "test")
    for row in table["rows"]:
        assert row["selected_on"] == "test"
        for seed in row["seeds"]:
            assert seed["validation"] == pytest.approx(seed["test"])


# ------------------------------------------------------------------------------- datasets of one's own


@pytest.fixture(scope="module")
def own(place, trained, settings):
    """The settings of datasets of several labels and of a number, in files."""
    rows = promoters()
    marks, numbers = ["sequence,motif,rich,split"], ["sequence\tgc\tsplit"]
    for i, (split, kind, _, sequence) in enumerate(rows):
        share = (sequence.count("G") + sequence.count("C")) / len(sequence)
        part = "validation" if split == "train" and i % 5 == 0 else split
        marks.append(f"{sequence},{int(kind == 'positive')},{int(share > 0.45)},{part}")
        numbers.append(f"{sequence}\t{10 * share:.4f}\t{split}")
    (place / "marks.csv").write_text("\n".join(marks) + "\n")
    (place / "content.tsv").write_text("\n".join(numbers) + "\n")
    section = settings["downstream"] | {
        "suites": [],
        "datasets": [
            {"path": str(place / "marks.csv"), "label": ["motif", "rich"]},
            {"path": str(place / "content.tsv"), "label": "gc", "metric": "spearman"},
        ],
        "models": ["titans"],
        "methods": ["finetune", "probe", "kmer"],
    }
    return settings | {"downstream": section}


@pytest.mark.parametrize(
    ("dataset", "task", "metric", "counts"),
    [
        ("marks", "multilabel", "auroc", {"train": 96, "validation": 24, "test": 60}),
        ("content", "regression", "spearman", {"train": 120, "validation": 0, "test": 60}),
    ],
)
def test_several_labels_and_numbers(own, trained, dataset, task, metric, counts):
    config = parse_config(own, "own")
    whole.run(config, dataset, trained / "tokens")
    table = read(trained / "downstream" / dataset / "table.json")
    assert (table["dataset"]["task"], table["metric"]) == (task, metric)
    assert table["dataset"]["sequences"] == counts
    assert table["published"] == []
    rows = rows_of(table)
    assert set(rows) == {("finetune", "titans"), ("probe", "titans"), ("kmer", "none")}
    for row in rows.values():
        low, high = row["test"][metric]["ci95"]
        assert low <= row["test"][metric]["mean"] <= high
    assert rows["kmer", "none"]["test"][metric]["ci95"][0] > 0.5


def test_lora_trains_little_and_leaves_the_model_as_it_was(own, trained):
    pytest.importorskip("peft", reason="peft is not installed")
    changed = own | {"downstream": own["downstream"] | {"methods": ["lora", "kmer"]}}
    weights = (trained / "train" / "titans" / "model.safetensors").read_bytes()
    whole.run(parse_config(changed, "lora"), "marks", trained / "tokens")
    row = rows_of(read(trained / "downstream" / "marks" / "table.json"))["lora", "titans"]
    assert row["cost"]["trained_parameters"] < row["cost"]["parameters"]
    assert 0 <= row["test"]["auroc"]["mean"] <= 1
    assert (trained / "train" / "titans" / "model.safetensors").read_bytes() == weights


# ------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, settings):
    """Run ``titans-genomics downstream`` with a config; returns exit status, what it says to stderr, and the config."""

    def command(*arguments, content=None, **downstream):
        content = settings if content is None else content
        file = tmp_path / "c.yaml"
        file.write_text(yaml.safe_dump(content | {"downstream": content["downstream"] | downstream}))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["titans-genomics", "downstream", *arguments, "--config", "c.yaml"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.err, said.out

    return command


@pytest.fixture
def refused(command):
    """The one line that a command ends with, after checking that it is one, and ends as a user's mistake does."""

    def refused(*arguments, lines=1, **settings):
        status, said, out = command(*arguments, **settings)
        assert (status, out) == (2, ""), said
        assert "Traceback" not in said
        _, error = said.split("titans-genomics: error: ")
        assert error.endswith("\n")
        assert error.count("\n") == lines, error
        return error

    return refused


def fit(model="titans", method="finetune", trial="lr0.005-batch32", dataset=NAME):
    return "fit", "--dataset", dataset, "--method", method, "--model", model, "--trial", trial, "--seed", "0"


def score(method="probe", model="titans", dataset=NAME):
    return "score", "--dataset", dataset, "--method", method, "--model", model


def test_one_command_does_it_all_and_prints_the_table(command, measured, trained):
    status, said, out = command("run", "--dataset", NAME, models=[], methods=["kmer"])
    assert status == 0, said
    assert out.startswith(f"{NAME}: accuracy on test, mean [95% interval] over 2 seed(s)")
    assert re.search(r"^kmer +none +[01]\.\d{4} \[", out, re.M)
    assert out.count("published: ") == len(find(NAME)[0].published)


def test_names_that_there_are_not(refused):
    said = refused("prepare", "--dataset", "human_nontata_promotors")
    assert "there is no suite or dataset 'human_nontata_promotors'. Near it: human_nontata_promoters" in said
    assert "'promoter_all' is the name of 2 different datasets" in refused("prepare", "--dataset", "promoter_all")
    assert "gue: is a suite; name one of gue_" in refused("prepare", "--dataset", "gue")
    said = refused("run", suites=["genomic_benchmark"], lines=2)
    assert "c.yaml: the config is not valid\n" in said
    assert "there is no suite or dataset 'genomic_benchmark'. Near it: genomic_benchmarks" in said
    assert "c.yaml: downstream names no dataset" in refused("run", suites=[])


def test_a_copy_that_is_not_there(refused, tmp_path):
    said = refused("prepare", "--dataset", "human_enhancers_cohn", folder=str(tmp_path / "none"))
    assert f"Put a copy at {tmp_path / 'none' / 'human_enhancers_cohn'}" in said
    assert "zenodo.org" in said


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("sequnce,label", "{sequence},{kind}", "d.csv: no column 'sequence'"),
        ("sequence,klass", "{sequence},{kind}", "d.csv: no column 'label'"),
        ("sequence,label", "{sequence},same", "d.csv: every label is 'same'; two classes are needed"),
        ("sequence,label,split", "{sequence},{kind}_{split},{split}", "d.csv: row 121 (line 122): the label 'negative_test' stands in test but not in train"),
    ],
    ids=["sequence column", "label column", "one class", "unseen label"],
)  # fmt: skip
def test_tables_that_will_not_do(refused, trained, tmp_path, header, row, said):
    lines = [row.format(split=split, kind=kind, sequence=sequence) for split, kind, _, sequence in promoters()]
    (tmp_path / "d.csv").write_text("\n".join([header, *lines]) + "\n")
    found = refused("prepare", "--dataset", "d", suites=[], datasets=[{"path": "d.csv"}])
    assert said in found
    assert not (trained / "downstream" / "d" / "data").exists()


def test_a_class_folder_with_one_file(refused, tmp_path):
    as_folders(
        tmp_path / NAME,
        [row for row in promoters() if row[1] == "negative"] + promoters()[60:61] + promoters()[150:151],
    )
    said = refused("prepare", "--dataset", NAME, folder=str(tmp_path))
    assert f"{tmp_path / NAME}" in said
    assert "class 'positive' has 1 different training sequence(s)" in said


def test_methods_trials_and_models_that_there_are_not(refused, measured):
    assert "method 'boost' trains no network; those that do are finetune, lora, scratch, cnn" in refused(
        *fit(method="boost")
    )
    assert "trial 'lr0.1': expected a learning rate and a batch size, such as" in refused(*fit(trial="lr0.1"))
    assert "does not go with the model 'none'; choose titans, transformer, mac, mag, mal" in refused(
        *score(model="none")
    )
    assert "'boost'" in refused(*score(method="boost"))
    assert "'lstm'" in refused(*fit(model="lstm"))


def test_what_has_to_be_there_before_is_named(refused, trained, settings, tmp_path):
    content = settings | {"results": str(tmp_path / "results")}
    folder = tmp_path / "results" / "small"
    for asked in (fit(), score()):
        assert "no prepared dataset in this folder; run `titans-genomics downstream prepare` first" in refused(
            *asked, content=content
        )
    said = refused("table", "--dataset", NAME, content=content)
    assert f"titans-genomics downstream prepare --config FILE --dataset {NAME}" in said
    shutil.copytree(trained / "downstream" / NAME / "data", folder / "downstream" / NAME / "data")
    assert "titans-genomics tokenize" in refused(*fit(), content=content)
    shutil.copytree(trained / "tokens", folder / "tokens")
    for asked in (fit("mac"), score(model="mac")):
        said = refused(*asked, content=content)
        assert f"{folder / 'train' / 'mac'}" in said
        assert "titans-genomics train" in said
    assert "titans-genomics downstream fit --config FILE" in refused(*score("finetune"), content=content)
    assert f"downstream score --config FILE --dataset {NAME}" in refused("table", "--dataset", NAME, content=content)
    assert Counter(path.name for path in folder.rglob("*.json"))["fit.json"] == 0


def test_a_model_of_other_tokens(refused, trained, settings, tmp_path):
    content = settings | {"data": settings["data"] | {"tokenizer": {"kind": "kmer", "k": 3}}}
    store = tmp_path / "kmers"
    tokenize(parse_config(content, "kmers"), store)
    for asked in (fit(), score()):
        said = refused(*asked, "--store", str(store), content=content)
        assert f"{trained / 'train' / 'titans'}" in said
        assert "model.vocab_size is 8 there and 72 in the config" in said
    said = refused(*fit(), "--store", str(store))
    assert f"{store}: this token store was made with other settings (data.tokenizer" in said


def test_what_was_made_with_another_protocol(refused, measured):
    said = refused(*score("finetune"), protocol="hyenadna")
    assert "fit.json: protocol is 'caduceus' there and 'hyenadna' now; run `titans-genomics downstream fit" in said
    said = refused("table", "--dataset", NAME, protocol="hyenadna")
    assert "score.json: protocol is 'caduceus' there and 'hyenadna' now; run `titans-genomics downstream score" in said
    said = refused("table", "--dataset", NAME, seeds=[0])
    assert "score.json: seeds is [0, 1] there and [0] now" in said
