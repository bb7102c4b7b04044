"""Rows and tables: chosen on validation, tested once, twice the same, and each beside its baselines."""

import dataclasses
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import small_settings

from titans_genomics.config import parse_config
from titans_genomics.data.alphabet import encode, reverse_complement
from titans_genomics.data.labelled import draw, load_labelled, prepare
from titans_genomics.data.labelled.splits import units
from titans_genomics.data.store import TokenStore
from titans_genomics.suites import find
from titans_genomics.tasks import embeddings, outcomes
from titans_genomics.tasks import score as scoring
from titans_genomics.tasks.finetune import fit
from titans_genomics.tasks.metrics import bootstrap, metrics_of, paired_difference
from titans_genomics.tasks.plan import plan
from titans_genomics.tasks.score import score
from titans_genomics.tasks.tables import table, text
from titans_genomics.training import load_model

NAME = "made"


@pytest.fixture(scope="module")
def settings(small_folder):
    """140 sequences of two classes that differ a little in GC; of the 40 that are test, six stand in train as well."""
    rng = np.random.default_rng(4)
    lines, seen = ["id,sequence,label,split"], []
    for i in range(140):
        label, split = i % 2, "test" if i >= 100 else "train"
        gc = 0.27 if label else 0.23
        bases = rng.choice(list("ACGT"), rng.integers(24, 40), p=[0.5 - gc, gc, gc, 0.5 - gc])
        sequence = "".join(bases)
        if 100 <= i < 106:
            sequence = seen[i - 100]
        seen.append(sequence)
        lines.append(f"s{i},{sequence},{'rich' if label else 'plain'},{split}")
    path = small_folder / "made.csv"
    path.write_text("\n".join(lines) + "\n")
    return {
        "datasets": [{"path": str(path)}],
        "methods": ["finetune", "scratch", "probe", "knn", "kmer"],
        "seeds": [0, 1],
        "validation": 0.2,
        "kmer": 2,
        "neighbours": [1, 5],
        "bootstrap": 50,
        "finetune": {"lr": [0.01], "batch_size": [32], "epochs": 1},
    }


def config_of(small_folder, settings, **changes):
    return parse_config({**small_settings(small_folder), "downstream": {**settings, **changes}}, "score")


@pytest.fixture(scope="module")
def config(small_folder, settings):
    return config_of(small_folder, settings)


@pytest.fixture(scope="module")
def models(tmp_path_factory, small_model):
    """results/RUN/train with the trained model."""
    folder = tmp_path_factory.mktemp("train")
    shutil.copytree(small_model, folder / "titans")
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, config, small_store, models):
    """The dataset's folder with data and all fits."""
    folder = tmp_path_factory.mktemp("downstream") / NAME
    prepare(config, NAME, folder / "data")
    for method in ("finetune", "scratch"):
        for trial in config.downstream.trials(method):
            for seed in config.downstream.seeds:
                out = folder / method / "titans" / trial / f"seed{seed}"
                weights = models / "titans" if method == "finetune" else None
                fit(config, small_store, folder / "data", weights, method, "titans", trial, seed, out)
    return folder


@pytest.fixture
def folder(fitted, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(fitted, tmp_path / NAME)


@pytest.fixture(scope="module")
def scored(fitted, tmp_path_factory, config, small_store, models):
    """A copy in which every row is scored."""
    folder = shutil.copytree(fitted, tmp_path_factory.mktemp("scored") / NAME)
    for row in plan(config, NAME):
        score(config, small_store, folder, models, *row)
    return folder


def without_cost(result):
    return {key: value for key, value in result.items() if key != "cost"}


# -------------------------------------------------------------------------------------------- plan


def test_the_plan_lists_every_row(small_folder, settings):
    settings = {
        **settings,
        "methods": ["probe", "cnn", "finetune", "kmer"],
        "hub": [{"name": "other", "repo": "o/other"}],
    }
    raw = {**small_settings(small_folder, transformer=True), "compare": {"mac": {"variant": "mac", "segment": 16}}}
    config = parse_config({**raw, "downstream": settings}, "plan")
    models = ["titans", "transformer", "mac"]
    rows = [("probe", m) for m in models] + [("cnn", "none")] + [("finetune", m) for m in models]
    assert plan(config, NAME) == [*rows, ("kmer", "none"), ("probe", "other")]
    assert plan(config, "human_nontata_promoters") == plan(config, NAME)
    fewer = parse_config({**raw, "downstream": {**settings, "models": ["mac"]}}, "plan")
    assert plan(fewer, NAME) == [
        ("probe", "mac"),
        ("cnn", "none"),
        ("finetune", "mac"),
        ("kmer", "none"),
        ("probe", "other"),
    ]
    with pytest.raises(ValueError, match="nowhere"):
        plan(config, "nowhere")


def test_the_plan_is_light():
    code = "import sys, titans_genomics.tasks.plan; print([m for m in ('torch', 'sklearn', 'pyarrow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------- embeddings


def embed(config, store, folder, models):
    data = load_labelled(folder / "data")
    return data, embeddings.embed(
        config, store, data, folder / "data", models / "titans", "titans", folder / "embeddings" / "titans.npz"
    )


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("strands", ["both", "given"])
def test_embeddings_are_those_of_each_sequence_read_alone(
    small_folder, settings, small_store, folder, models, pooling, strands
):
    config = config_of(small_folder, settings, pooling=pooling, strands=strands)
    data, found = embed(config, small_store, folder, models)
    model, tokenizer = load_model(models / "titans"), TokenStore(small_store).tokenizer
    assert found.parameters == model.parameter_count()
    assert found.vectors.dtype == np.float32
    for row in (0, 17, 139):
        views = [data.sequence(row), reverse_complement(data.sequence(row))][: 2 if strands == "both" else 1]
        states = [model.embed(torch.from_numpy(tokenizer.encode(v).astype(np.int64))[None])[0][0] for v in views]
        pooled = [state.mean(0) if pooling == "mean" else state[-1] for state in states]
        expected = torch.stack(pooled).mean(0).detach().numpy()
        np.testing.assert_allclose(found.vectors[row], expected, atol=1e-5)


def test_embeddings_are_computed_once_and_anew_when_the_weights_change_or_the_file_is_damaged(
    config, small_store, folder, models, tmp_path, monkeypatch
):
    own = shutil.copytree(models, tmp_path / "train")
    _, first = embed(config, small_store, folder, own)
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "load_model", lambda *_: pytest.fail("computed again"))
        _, again = embed(config, small_store, folder, own)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert (first.seconds, first.parameters) == (again.seconds, again.parameters)
    path = folder / "embeddings" / "titans.npz"
    path.write_bytes(path.read_bytes()[:-100])
    _, again = embed(config, small_store, folder, own)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    weights = load_file(own / "titans" / "model.safetensors")
    save_file({k: v * 2 if k == "norm.weight" else v for k, v in weights.items()}, own / "titans" / "model.safetensors")
    _, changed = embed(config, small_store, folder, own)
    np.testing.assert_allclose(changed.vectors, 2 * first.vectors, rtol=1e-4, atol=1e-5)


def test_of_several_that_want_an_embedding_at_once_one_computes_it(folder):
    made, found, here = [], [], threading.Barrier(4)

    def compute():
        made.append(1)
        return embeddings.Embedding(np.arange(6, dtype=np.float32).reshape(3, 2), 7, 0.5, {"cut": 1})

    def want():
        here.wait()
        path = folder / "embeddings" / "x.npz"
        found.append(embeddings.cached(path, {"a": 1}, folder / "data", "mean", "both", compute))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(found) == 4
    for own in found:
        np.testing.assert_array_equal(own.vectors, found[0].vectors)
        assert (own.parameters, own.seconds, own.details) == (7, 0.5, {"cut": 1})


def test_a_model_of_another_name_is_an_error(config, small_store, folder, models, tmp_path):
    raw = config.model_dump(mode="json") | {"compare": {"mac": {"variant": "mac", "segment": 16}}}
    own = tmp_path / "train"
    shutil.copytree(models / "titans", own / "mac")
    with pytest.raises(ValueError, match="holds the model 'titans', not 'mac'"):
        score(parse_config(raw, "x"), small_store, folder, own, "probe", "mac")


# ------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize("row", [("probe", "titans"), ("knn", "titans"), ("kmer", "none"), ("finetune", "titans")])
def test_twice_the_same_and_what_the_predictions_say(config, small_store, scored, models, tmp_path, row):
    written = json.loads((scored / row[0] / row[1] / "score.json").read_text())
    again = shutil.copytree(scored, tmp_path / NAME)
    shutil.rmtree(again / "embeddings")
    assert without_cost(score(config, small_store, again, models, *row)) == without_cost(written)
    data = load_labelled(scored / "data")
    test = np.flatnonzero(data.split == 2)
    predictions = pq.read_table(scored / row[0] / row[1] / "predictions.parquet").to_pandas()
    assert list(predictions.columns) == ["seed", "id", "unit", "target", "score_0", "score_1"]
    assert len(predictions) == 2 * len(test) == 80
    for own in written["seeds"]:
        rows = predictions[predictions.seed == own["seed"]]
        assert rows.id.tolist() == [data.ids[i] for i in test]
        assert rows.unit.tolist() == units(data.same, data.groups)[0][test].tolist()
        scores = rows[["score_0", "score_1"]].to_numpy()
        assert scores.dtype == np.float32
        assert own["test"] == pytest.approx(metrics_of("classification", scores, rows.target.to_numpy()))
        clean = data.copies[test] == 0
        assert own["deduplicated"] == pytest.approx(
            metrics_of("classification", scores[clean], rows.target.to_numpy()[clean])
        )
    assert clean.sum() == written["deduplicated_sequences"] <= 34
    for part in ("test", "deduplicated"):
        for metric, value in written[part].items():
            each = [own[part][metric] for own in written["seeds"]]
            assert value["mean"] == pytest.approx(np.mean(each))
            assert value["sd"] == pytest.approx(np.std(each, ddof=1))
        low, high = written[part]["accuracy"]["ci95"]
        assert low <= written[part]["accuracy"]["mean"] <= high
    assert np.sum(written["confusion"]) == pytest.approx(40)
    assert sum(part["count"] for part in written["calibration"]["bins"]) == 80
    assert written["selected_on"] == "validation"


def test_the_trial_is_the_best_on_validation_and_the_first_of_equals(
    small_folder, settings, small_store, folder, models
):
    config = config_of(small_folder, settings, finetune={**settings["finetune"], "lr": [0.01, 0.02]})
    trials = config.downstream.trials("finetune")
    own = folder / "finetune" / "titans"
    shutil.copytree(own / trials[0], own / trials[1])
    for path in (own / trials[1]).glob("*/model.safetensors"):  # a network of another opinion
        save_file({k: -v if k == "head.weight" else v for k, v in load_file(path).items()}, path)

    def pretend(values):
        for trial, each in zip(trials, values, strict=True):
            for seed, value in zip(config.downstream.seeds, each, strict=True):
                path = own / trial / f"seed{seed}" / "fit.json"
                content = json.loads(path.read_text())
                content["validation"]["accuracy"] = value
                content["identity"]["trial"] = trial
                path.write_text(json.dumps(content))

    pretend([(0.9, 0.5), (0.7, 0.8)])
    second = score(config, small_store, folder, models, "finetune", "titans")
    assert second["trial"] == trials[1] == second["hyperparameters"]["trial"]
    assert [row["validation"] for row in second["seeds"]] == [0.7, 0.8]
    assert second["trials"] == [
        {"trial": trials[0], "validation": 0.7, "seeds": [0.9, 0.5]},
        {"trial": trials[1], "validation": 0.75, "seeds": [0.7, 0.8]},
    ]
    pretend([(0.75, 0.75), (0.7, 0.8)])
    first = score(config, small_store, folder, models, "finetune", "titans")
    assert first["trial"] == trials[0]
    assert first["calibration"] != second["calibration"]
    fits = [json.loads(path.read_text()) for path in own.rglob("fit.json")]
    assert len(fits) == 4
    assert first["cost"]["seconds"] == pytest.approx(sum(fit["seconds"] for fit in fits))
    assert first["cost"]["hardware"]["cpu"]


def test_a_missing_fit_is_an_error_that_names_the_command(small_folder, settings, small_store, folder, models):
    config = config_of(small_folder, settings, finetune={**settings["finetune"], "lr": [0.01, 0.02]})
    expected = (
        "downstream fit --config FILE --dataset made --method scratch --model titans --trial lr0.02-batch32 --seed 0"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        score(config, small_store, folder, models, "scratch", "titans")


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "last"},
        {"validation": 0.3},
        {"protocol": "hyenadna"},
        {"finetune": {"lr": [0.01], "batch_size": [32], "epochs": 2}},
    ],
    ids=str,
)
def test_fits_of_other_settings_are_an_error(small_folder, settings, small_store, folder, models, changes):
    (key,) = changes
    key = "finetune.epochs" if key == "finetune" else key
    expected = rf"fit.json: {key} is .* there and .* now; run `titans-genomics downstream fit .* --seed 0` again"
    with pytest.raises(ValueError, match=expected):
        score(config_of(small_folder, settings, **changes), small_store, folder, models, "finetune", "titans")


def another_preparation(small_folder, settings, folder, **columns):
    """The dataset prepared again in ``folder``, from a file with other columns; the config."""
    table = pd.read_csv(small_folder / "made.csv").assign(**columns)
    path = folder.parent / "made.csv"
    table.to_csv(path, index=False)
    config = config_of(small_folder, settings, datasets=[{"path": str(path)}])
    prepare(config, NAME, folder / "data")
    return config


def test_fits_on_another_split_or_of_one_seed_are_an_error(small_folder, settings, small_store, folder, models):
    own = folder / "scratch" / "titans" / "lr0.01-batch32"
    shutil.copytree(own / "seed1", own / "seed0", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"seed0/fit.json: seed is 1 there and 0 now; run .* --seed 0` again"):
        score(config_of(small_folder, settings), small_store, folder, models, "scratch", "titans")
    config = another_preparation(small_folder, settings, folder, split=["train"] * 90 + ["test"] * 50)
    with pytest.raises(ValueError, match=r"seed0/fit.json: data is .* there and .* now; run .* --seed 0` again"):
        score(config, small_store, folder, models, "finetune", "titans")


def test_fits_from_other_weights_or_none_are_an_error(config, small_store, folder, models, tmp_path):
    own = shutil.copytree(models, tmp_path / "train")
    weights = load_file(own / "titans" / "model.safetensors")
    save_file({k: v * 2 if k == "norm.weight" else v for k, v in weights.items()}, own / "titans" / "model.safetensors")
    with pytest.raises(ValueError, match=r"fit.json: pretrained is .* there and .* now; run"):
        score(config, small_store, folder, own, "finetune", "titans")
    score(config, small_store, folder, own, "scratch", "titans")
    with pytest.raises(FileNotFoundError, match="no trained model"):
        score(config, small_store, folder, tmp_path, "finetune", "titans")


def test_the_data_are_hashed_once_for_all_fits(config, small_store, folder, models, monkeypatch):
    calls = []
    real = outcomes.identity
    monkeypatch.setattr(outcomes, "identity", lambda *arguments: calls.append(1) or real(*arguments))
    score(config, small_store, folder, models, "finetune", "titans")
    assert len(calls) == 1


def test_the_hyenadna_protocol_chooses_on_test_and_says_so(small_folder, settings, small_store, folder, models):
    config = config_of(small_folder, settings, protocol="hyenadna")
    found = score(config, small_store, folder, models, "kmer", "none")
    assert found["selected_on"] == "test"
    assert "optimistic" in found["label"]
    for own in found["seeds"]:
        assert own["validation"] == pytest.approx(own["test"]["accuracy"])


def test_without_resamples_there_are_no_intervals(small_folder, settings, small_store, folder, models):
    found = score(
        config_of(small_folder, settings, bootstrap=0, seeds=[3]), small_store, folder, models, "kmer", "none"
    )
    assert {value["ci95"] for value in found["test"].values()} == {None}
    assert {value["sd"] for value in found["test"].values()} == {0.0}


def test_without_a_clean_test_sequence_there_is_no_deduplicated_score(config, small_store, folder, models, monkeypatch):
    data = load_labelled(folder / "data")
    leaky = dataclasses.replace(data, copies=np.where(data.split == 2, 2, 0).astype(np.uint8))
    monkeypatch.setattr(scoring, "load_labelled", lambda _: leaky)
    found = score(config, small_store, folder, models, "kmer", "none")
    assert found["deduplicated"] is None
    assert found["deduplicated_sequences"] == 0
    assert [own["deduplicated"] for own in found["seeds"]] == [None, None]


@pytest.mark.parametrize(
    ("method", "model", "known"),
    [("finetune", "none", "titans"), ("kmer", "titans", "none"), ("knn", "other", "titans"), ("probe", "x", "other")],
)
def test_method_and_model_that_do_not_go_together_are_an_error(
    small_folder, settings, small_store, folder, models, method, model, known
):
    config = config_of(small_folder, settings, hub=[{"name": "other", "repo": "o/other"}])
    with pytest.raises(ValueError, match=f"method {method} does not go with the model '{model}'; choose .*{known}"):
        score(config, small_store, folder, models, method, model)


def test_a_method_that_there_is_not_is_an_error(config, small_store, folder, models):
    with pytest.raises(ValueError, match="method 'boost' is not known; choose finetune, lora, "):
        score(config, small_store, folder, models, "boost", "titans")


def test_the_cnn_and_kmers_need_neither_tokens_nor_models(small_folder, settings, folder, tmp_path):
    config = config_of(small_folder, settings, methods=["cnn", "kmer"], seeds=[0])
    (trial,) = config.downstream.trials("cnn")
    nowhere = tmp_path / "nowhere"
    fit(config, nowhere, folder / "data", None, "cnn", "none", trial, 0, folder / "cnn" / "none" / trial / "seed0")
    for row in plan(config, NAME):
        found = score(config, nowhere, folder, nowhere, *row)
        assert found["pooling"] is None
        assert found["cost"]["parameters"] == found["cost"]["trained_parameters"] > 0
    assert {row["method"] for row in table(config, folder)["rows"]} == {"cnn", "kmer"}


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_several_labels_and_values(small_folder, settings, small_store, models, tmp_path, task):
    rng = np.random.default_rng(0)
    lines = ["sequence,one,two,split"]
    for i in range(120):
        sequence = "".join(rng.choice(list("ACGT"), 40))
        gc, islands = (encode(sequence) % 3 != 0).mean(), sequence.count("CG")
        values = (gc, islands) if task == "regression" else (int(gc > 0.5), int(islands > 2))
        lines.append(f"{sequence},{values[0]},{values[1]},{'test' if i % 3 == 0 else 'train'}")
    (tmp_path / "several.csv").write_text("\n".join(lines) + "\n")
    entry = {"path": str(tmp_path / "several.csv"), "label": ["one", "two"], "task": task}
    config = config_of(small_folder, settings, datasets=[entry], methods=["probe", "knn", "kmer"])
    folder = tmp_path / "several"
    prepare(config, "several", folder / "data")
    for row in plan(config, "several"):
        found = score(config, small_store, folder, models, *row)
        assert "confusion" not in found
        assert found["test"][found["metric"]]["ci95"] is not None
        names = pq.read_schema(folder / row[0] / row[1] / "predictions.parquet").names
        assert names == ["seed", "id", "unit", "target_0", "target_1", "score_0", "score_1"]
    best = {row["method"]: row["test"][row["metric"]]["mean"] for row in table(config, folder)["rows"]}
    assert best["kmer"] > 0.8  # composition says it all


# ------------------------------------------------------------------------------------------- table


def test_the_table_has_every_row_best_first_with_paired_differences(config, scored):
    found = table(config, scored)
    assert json.loads((scored / "table.json").read_text()) == found
    assert {(row["method"], row["model"]) for row in found["rows"]} == set(plan(config, NAME))
    means = [row["test"]["accuracy"]["mean"] for row in found["rows"]]
    assert means == sorted(means, reverse=True)
    rows = {row["method"]: row for row in found["rows"]}
    assert set(rows["finetune"]["differences"]) == {"kmer", "scratch"}
    assert set(rows["probe"]["differences"]) == set(rows["scratch"]["differences"]) == {"kmer"}
    assert rows["kmer"]["differences"] == {}

    def predictions(method):
        own = pq.read_table(scored / rows[method]["score"].replace("score.json", "predictions.parquet")).to_pandas()
        each = [part for _, part in own.groupby("seed")]
        return [part[["score_0", "score_1"]].to_numpy() for part in each], each[0].target.to_numpy(), each[0].unit

    (ours, targets, unit), (theirs, *_) = predictions("finetune"), predictions("scratch")
    expected = paired_difference("classification", "accuracy", ours, theirs, targets, 50, config.seed, unit.to_numpy())
    assert rows["finetune"]["differences"]["scratch"] == expected
    for row in found["rows"]:
        for name, difference in row["differences"].items():
            other = rows[name]["test"]["accuracy"]["mean"]
            assert difference["difference"] == pytest.approx(row["test"]["accuracy"]["mean"] - other)
        whole = json.loads((scored / row["score"]).read_text())
        assert [own["test"] for own in row["seeds"]] == [own["test"]["accuracy"] for own in whole["seeds"]]
        assert not {"confusion", "calibration"} & set(row)
    assert found["dataset"] == json.loads((scored / "data" / "dataset.json").read_text())
    assert found["published"] == []
    assert table(config, scored) == found
    lines = text(found).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [row["method"] for row in found["rows"]]
    assert f"{means[0]:.4f}" in lines[2]


def test_labels_of_the_strand_that_stands_there(small_folder, settings, small_store, models, tmp_path):
    """A dataset may say that its labels are those of the strand given, whatever the run says of others."""
    own = {**settings["datasets"][0], "strands": "given"}
    config = config_of(small_folder, settings, datasets=[own], methods=["probe", "kmer"])
    assert config.downstream.strands == "both"
    folder = tmp_path / NAME
    prepare(config, NAME, folder / "data")
    for row in plan(config, NAME):
        assert score(config, small_store, folder, models, *row)["strands"] == "given"
    assert {row["strands"] for row in table(config, folder)["rows"]} == {"given"}


def test_a_row_that_is_not_asked_for_is_left_out(small_folder, settings, scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / NAME)
    found = table(config_of(small_folder, settings, methods=["probe", "knn"]), folder)
    assert sorted(row["method"] for row in found["rows"]) == ["knn", "probe"]
    assert all(row["differences"] == {} for row in found["rows"])


def test_a_row_that_is_not_there_is_an_error_that_names_the_command(config, scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / NAME)
    (folder / "knn" / "titans" / "score.json").unlink()
    with pytest.raises(
        FileNotFoundError, match="downstream score --config FILE --dataset made --method knn --model titans"
    ):
        table(config, folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "hyenadna"},
        {"seeds": [0, 1, 2]},
        {"pooling": "last"},
        {"strands": "given"},
        {"validation": 0.3},
        {"bootstrap": 60},
        {"kmer": 3},
        {"neighbours": [1, 3]},
        {"finetune": {"lr": [0.02], "batch_size": [32], "epochs": 1}},
        {"finetune": {"lr": [0.01], "batch_size": [32], "epochs": 2}},
    ],
    ids=str,
)
def test_rows_of_other_settings_are_an_error(small_folder, settings, scored, tmp_path, changes):
    folder = shutil.copytree(scored, tmp_path / NAME)
    (key,) = changes
    key = {"finetune": r"(trials|finetune\.epochs)"}.get(key, key)
    with pytest.raises(ValueError, match=rf"score.json: {key} is .* there and .* now; run `titans-genomics downstream"):
        table(config_of(small_folder, settings, **changes), folder)


def test_rows_of_another_preparation_are_an_error(small_folder, settings, small_store, scored, models, tmp_path):
    folder = shutil.copytree(scored, tmp_path / NAME)
    labels = pd.read_csv(small_folder / "made.csv").label
    config = another_preparation(small_folder, settings, folder, label=labels.to_list()[:100] + ["rich", "plain"] * 20)
    score(config, small_store, folder, models, "kmer", "none")
    expected = r"score.json: sequences_sha256 is .* there and .* now; run .* --method finetune --model titans` again"
    with pytest.raises(ValueError, match=expected):
        table(config, folder)
    (folder / "data" / "sequences.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="downstream prepare --config FILE --dataset made"):
        table(config, folder)


def test_rows_with_other_targets_are_an_error(config, scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / NAME)
    path = folder / "knn" / "titans" / "predictions.parquet"
    predictions = pq.read_table(path)
    at = predictions.column_names.index("target")
    turned = 1 - predictions["target"].to_numpy()
    pq.write_table(predictions.set_column(at, "target", [turned]), path)
    with pytest.raises(ValueError, match="of other targets than those of knn/titans"):
        table(config, folder)


def test_of_one_seed_the_table_says_what_its_intervals_leave_out(small_folder, settings, small_store, folder, models):
    config = config_of(small_folder, settings, methods=["kmer"], seeds=[0])
    score(config, small_store, folder, models, "kmer", "none")
    said = "(one seed: the spread of training is not in the intervals)"
    found = table(config, folder)
    assert text(found).splitlines()[0].endswith(said)
    more = found["rows"][0]["seeds"] * 2
    assert said not in text(found | {"rows": [found["rows"][0] | {"seeds": more}]})


def test_identical_test_sequences_are_drawn_together(small_folder, settings, small_store, folder, models):
    """Every second of the test sequences is the same."""
    table = pd.read_csv(small_folder / "made.csv")
    first = table.sequence[100]
    sequences = [first if i >= 100 and i % 2 == 0 else own for i, own in enumerate(table.sequence)]
    config = another_preparation(
        small_folder, settings, folder, sequence=sequences, label=table.label.to_list()[:100] + ["plain"] * 40
    )
    found = score(config, small_store, folder, models, "kmer", "none")
    own = pq.read_table(folder / "kmer" / "none" / "predictions.parquet").to_pandas()
    scores = [part[["score_0", "score_1"]].to_numpy() for _, part in own.groupby("seed")]
    targets, unit = own.target.to_numpy()[:40], own.unit.to_numpy()[:40]
    assert len(set(unit[::2])) == 1
    assert len(set(unit[1::2])) > 10
    arguments = "classification", scores, targets, 50, config.seed
    ends = found["test"]["accuracy"]["ci95"]
    assert ends == bootstrap(*arguments, unit)["accuracy"] != bootstrap(*arguments)["accuracy"]


def test_rows_on_other_test_sequences_are_an_error(config, scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / NAME)
    path = folder / "knn" / "titans" / "predictions.parquet"
    predictions = pq.read_table(path)
    pq.write_table(predictions.set_column(1, "id", [[f"other{i}" for i in range(len(predictions))]]), path)
    with pytest.raises(ValueError, match="of other test sequences than those of knn/titans"):
        table(config, folder)


def test_published_figures_stand_beside_the_rows_as_shares(config, scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / "human_nontata_promoters")
    official = find("human_nontata_promoters")[0]
    for path in [folder / "data" / "dataset.json", *folder.glob("*/*/score.json")]:
        content = json.loads(path.read_text())
        content |= (
            {"name": official.name, "suite": official.suite}
            if path.name == "dataset.json"
            else {"dataset": official.name}
        )
        path.write_text(json.dumps(content))
    found = table(config, folder)["published"]
    assert sorted((own["model"], own["value"], own["protocol"], own["source"]) for own in found) == sorted(
        (own.model, round(own.value / 100, 6), own.protocol, own.source) for own in official.published
    )
    assert [own["value"] for own in found] == sorted((own["value"] for own in found), reverse=True)
    assert "published: Caduceus" in text(table(config, folder))
    other = json.loads((folder / "data" / "dataset.json").read_text())
    (folder / "data" / "dataset.json").write_text(json.dumps(other | {"metric": "mcc"}))
    for path in folder.glob("*/*/score.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": "mcc"}))
    assert table(config, folder)["published"] == []  # they are of another metric


def test_draws_differ_by_seed_and_test_is_theirs_all(config, scored):
    data = load_labelled(scored / "data")
    one, two = (draw(data, "caduceus", 0.2, seed) for seed in (0, 1))
    assert set(one[1]) != set(two[1])
    np.testing.assert_array_equal(one[2], two[2])
