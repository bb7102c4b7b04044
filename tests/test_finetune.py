"""Training on a labelled dataset: learns, stops early, is the same twice and when it was killed; predictions are those of a sequence."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import small_settings

from titans_genomics.config import Config, parse_config
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.labelled import Labelled, draw, load_labelled, prepare
from titans_genomics.data.tokenizers import Kmers, Nucleotides
from titans_genomics.models import Titans, TitansConfig
from titans_genomics.models.classifier import CNN, Classifier
from titans_genomics.tasks import finetune_fit
from titans_genomics.tasks.finetune import difference, fit, identity, load_fitted
from titans_genomics.tasks.finetune_fit import Fitting, Schedule
from titans_genomics.tasks.sequences import batches, padded, predict

CPU = torch.device("cpu")


def write_table(path, label, rows=120, lengths=(60, 90)):
    """CSV of random sequences: those of class "yes" have many CG. ``label(rng, fraction)`` makes the column from the share."""
    rng = np.random.default_rng(3)
    lines = ["sequence,label"]
    for row in range(rows):
        sequence = "".join(rng.choice(list("ACGT"), rng.integers(*lengths), p=_bases(row % 2)))
        lines.append(f"{sequence},{label(row % 2, sequence)}")
    path.write_text("\n".join(lines) + "\n")


def _bases(rich):
    return [0.15, 0.35, 0.35, 0.15] if rich else [0.3, 0.2, 0.2, 0.3]


@pytest.fixture(scope="module")
def settings(small_folder):
    write_table(small_folder / "islands.csv", lambda rich, _: "yes" if rich else "no")
    write_table(small_folder / "share.csv", lambda _, s: 20 + 3 * (s.count("C") + s.count("G")) / len(s))
    return small_settings(small_folder) | {
        "downstream": {
            "datasets": [{"path": str(small_folder / f"{name}.csv")} for name in ("islands", "share")],
            "finetune": {"epochs": 3, "patience": 3, "lr": [5e-3], "batch_size": [16]},
            "validation": 0.25,
            "seeds": [0],
        }
    }


@pytest.fixture(scope="module")
def config(settings) -> Config:
    return parse_config(settings, "test")


def changed(settings, **downstream) -> Config:
    return parse_config(settings | {"downstream": settings["downstream"] | downstream}, "test")


@pytest.fixture(scope="module")
def prepared(config, small_folder) -> Path:
    for name in ("islands", "share"):
        prepare(config, name, small_folder / "labelled" / name)
    return small_folder / "labelled"


@pytest.fixture(scope="module")
def islands(prepared) -> Labelled:
    return load_labelled(prepared / "islands")


@pytest.fixture
def start(config, small_store, small_model, prepared, tmp_path):
    """Call `fit`; the pre-trained model comes with the methods that begin from one."""

    def start(
        method="finetune", model="titans", config=config, dataset="islands", seed=0, out=tmp_path / "fit", lr=5e-3
    ):
        folder = small_model if method in ("finetune", "lora") else None
        trial = "lr0.001-batch64" if method == "cnn" else f"lr{lr:g}-batch16"
        return fit(config, small_store, prepared / dataset, folder, method, model, trial, seed, Path(out))

    return start


def made(*sequences: str, targets=None) -> Labelled:
    """A dataset of these sequences, all of them in the training split."""
    codes = [
        np.frombuffer(s.encode().translate(bytes.maketrans(b"ACGTN", bytes(range(5)))), np.uint8) for s in sequences
    ]
    n = len(codes)
    return Labelled(
        name="made", task="classification", classes=("no", "yes"), metric="accuracy", ids=[str(i) for i in range(n)],
        codes=np.concatenate(codes), offsets=np.cumsum([0, *map(len, codes)]), split=np.zeros(n, np.uint8), groups=None,
        targets=np.arange(n) % 2 if targets is None else targets, copies=np.zeros(n, np.uint8), info={},
    )  # fmt: skip


def random_sequences(n, lengths=(1, 80), seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGTN"), rng.integers(*lengths), p=[0.24] * 4 + [0.04])) for _ in range(n)]


def small_network(tokenizer, pooling="mean", variant="mac"):
    torch.manual_seed(1)
    config = TitansConfig(variant=variant, vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, chunk=8, segment=16)
    return Classifier(Titans(config), 2, pooling)


# ---------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("tokenizer", [Nucleotides(), Kmers(3, overlap=False)], ids=["nucleotide", "kmer"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_predictions_do_not_depend_on_strand_order_or_company(tokenizer, pooling, monkeypatch):
    network, sequences = small_network(tokenizer, pooling), random_sequences(12)
    data, rows = made(*sequences), np.random.default_rng(1).permutation(12)
    found = predict(network, data, rows, tokenizer, "both", CPU)
    other = replace(data, codes=np.concatenate([reverse_complement(data.sequence(i)) for i in range(12)]))
    np.testing.assert_allclose(predict(network, other, rows, tokenizer, "both", CPU), found, atol=1e-6)
    alone = [predict(network, data, rows[i : i + 1], tokenizer, "both", CPU)[0] for i in range(12)]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    monkeypatch.setattr("titans_genomics.tasks.sequences.token_budget", lambda device: 100)
    np.testing.assert_allclose(predict(network, data, rows, tokenizer, "both", CPU), found, atol=1e-5)
    given = predict(network, data, rows, tokenizer, "given", CPU)
    turned = predict(network, other, rows, tokenizer, "given", CPU)
    np.testing.assert_allclose((given + turned) / 2, found, atol=1e-6)
    assert np.abs(given - turned).max() > 1e-3


def test_the_cnn_reads_bases_on_the_strand_given():
    torch.manual_seed(0)
    network, data = CNN(60, 2), made(*random_sequences(9))
    found = predict(network, data, np.arange(9), Kmers(3, overlap=False), "both", CPU)
    tokens, lengths = padded([data.sequence(i) for i in range(9)])
    np.testing.assert_allclose(found, network.eval()(tokens, lengths).detach(), atol=1e-5)


def test_batches_are_of_all_sequences_once_and_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    found = list(batches(lengths, 1000))
    assert sorted(np.concatenate(found)) == list(range(500))
    assert all(len(batch) * lengths[batch].max() <= 1000 for batch in found)
    assert len(found) < 1.2 * lengths.sum() / 1000
    assert [len(batch) for batch in batches(np.array([5, 5000, 7]), 100)] == [1, 2]


# ------------------------------------------------------------------------------------------- training


def a_schedule(**values):
    fixed = {"lr": 5e-3, "batch_size": 8, "epochs": 4, "patience": 4, "warmup": 0.1, "weight_decay": 0.1}
    rest = {"betas": (0.9, 0.95), "clip": 1.0, "max_nonfinite": 3, "strands": "both", "seed": 0, "bf16": False}
    return Schedule(**{**fixed, **rest, **values})


def a_fitting(out, data=None, network=None, **values):
    data = data or made(*random_sequences(24, (20, 60)))
    rows, network = np.arange(len(data)), network or small_network(Nucleotides(), variant="lmm")
    schedule = a_schedule(**values)
    return Fitting(network, data, rows[:16], rows[16:], Nucleotides(), schedule, {"made": True}, CPU, out)


def test_learning_rate_rises_and_falls():
    schedule = a_schedule(lr=1.0, warmup=0.25)
    rates = [schedule.rate(step, 40) for step in range(40)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[25] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert {a_schedule(warmup=None, lr=0.5).rate(step, 9) for step in range(9)} == {0.5}
    assert a_schedule(lr=1.0, warmup=0.0).rate(0, 5) == 1.0


def test_gradients_are_those_of_the_whole_batch_however_it_is_split(tmp_path, monkeypatch):
    """Cross-entropy of the sequences one by one, on their strands, is the oracle."""
    fitting = a_fitting(tmp_path)
    rows, turned = np.array([3, 0, 7, 12, 9]), np.array([True, False, False, True, True])
    expected = 0
    for row, strand in zip(rows, turned, strict=True):
        codes = fitting.data.sequence(row)
        codes = reverse_complement(codes) if strand else codes
        logits = fitting.network(torch.tensor(codes[None].astype(np.int64)), torch.tensor([len(codes)]))
        expected += torch.nn.functional.cross_entropy(logits, torch.tensor([row % 2])) / 5
    trained = [p for p in fitting.network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(expected, trained)
    for budget in (30, 100, 10_000):
        monkeypatch.setattr(finetune_fit, "token_budget", lambda device, budget=budget: budget // 16)
        found = []
        monkeypatch.setattr(fitting, "_apply", lambda loss: found.append([loss, *(p.grad for p in trained)]))  # noqa: B023
        fitting.network.zero_grad()
        fitting.step(rows, turned)
        assert found[0][0] == pytest.approx(expected.item(), abs=1e-5)
        for one, other in zip(found[0][1:], gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_strands_are_random_and_seeded(tmp_path, monkeypatch):
    def seen(epoch, **values):
        (tmp_path / "x").mkdir(exist_ok=True)
        fitting, calls = a_fitting(tmp_path / "x", **values), []
        monkeypatch.setattr(fitting, "step", lambda rows, turned: calls.append((rows, turned)) or 0.5)
        fitting.history = [{"epoch": 1, "validation": {"loss": 0.0}}] * (epoch - 1)
        fitting.best_epoch = min(1, epoch - 1)
        fitting.epoch(epoch, _Silent())
        return [np.concatenate(part).tolist() for part in zip(*calls, strict=True)]

    rows, turned = seen(1)
    assert sorted(rows) == list(range(16))
    assert 0 < sum(turned) < 16
    assert seen(1) == [rows, turned]
    assert seen(2) != [rows, turned]
    assert seen(1, seed=1) != [rows, turned]
    assert not any(seen(1, strands="given")[1])


class _Silent:
    def update(self, *_, **__):
        pass


@pytest.mark.parametrize(
    ("metrics", "losses", "best", "epochs"),
    [
        ([0.5, 0.7, 0.6, 0.6, 0.9], [1.0] * 5, 2, 4),  # stops two after the best
        ([0.5, 0.7, 0.7, 0.6, 0.6], [1, 0.9, 0.8, 0.1, 0.1], 3, 5),  # equal: the loss decides
        ([0.7, 0.7, 0.7, 0.7, 0.7], [1, 1, 1, 1, 1], 1, 3),  # equal altogether: the first
        ([None] * 5, [1, 0.5, 0.7, 0.4, 0.6], 4, 5),  # not defined: the loss
        ([math.nan] * 5, [1, 2, 3, 4, 5], 1, 3),
    ],
)
def test_stops_early_on_the_headline_metric(tmp_path, monkeypatch, metrics, losses, best, epochs):
    fitting = a_fitting(tmp_path, epochs=5, patience=2)
    monkeypatch.setattr(fitting, "step", lambda rows, turned: 0.5)

    def metrics_of(task, scores, targets):
        value = metrics[len(fitting.history)]
        return {} if value is None else {"accuracy": value, "mcc": -value}

    monkeypatch.setattr(finetune_fit, "metrics_of", metrics_of)
    monkeypatch.setattr(finetune_fit, "loss_of", lambda *_: torch.tensor(float(losses[len(fitting.history)])))
    fitting.run(lambda *_: None)
    assert (fitting.best_epoch, len(fitting.history)) == (best, epochs)


def test_steps_that_are_not_finite_are_skipped_counted_and_said(tmp_path, monkeypatch, capsys):
    fitting = a_fitting(tmp_path, epochs=2)
    real, calls = finetune_fit.loss_of, []

    def loss_of(task, outputs, targets):
        calls.append(outputs.requires_grad)
        return real(task, outputs, targets) * (math.nan if sum(calls) in (2, 3) and outputs.requires_grad else 1)

    monkeypatch.setattr(finetune_fit, "loss_of", loss_of)
    fitting.run(lambda *_: None)
    assert (fitting.steps, fitting.skipped) == (4, 2)
    assert "step 2 skipped, weights unchanged" in capsys.readouterr().err
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model.safetensors").values())
    assert all(math.isfinite(row["loss"]) for row in fitting.history)


def test_training_that_stays_not_finite_stops_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_fit, "loss_of", lambda task, outputs, targets: outputs.sum() * math.nan)
    with pytest.raises(ValueError, match=r"3 steps in a row were not finite.*Lower downstream.finetune.lr"):
        a_fitting(tmp_path, epochs=4).run(lambda *_: None)


# --------------------------------------------------------------------------------------------- fitting


@pytest.mark.parametrize("method", ["finetune", "lora", "scratch", "cnn"])
def test_fit_and_load(start, config, small_store, small_model, islands, tmp_path, method):
    model = "none" if method == "cnn" else "titans"
    result = start(method, model)
    assert json.loads((tmp_path / "fit" / "fit.json").read_text()) == result
    assert result["validation"] == result["epochs"][result["best_epoch"] - 1]["validation"]
    assert result["finite"]
    assert not (tmp_path / "fit" / "last.ckpt").exists()
    network = load_fitted(config, small_store, tmp_path / "fit")
    _, validation, _ = draw(islands, "caduceus", 0.25, 0)
    scores = predict(network, islands, validation, Nucleotides(), "both", CPU)
    accuracy = (scores.argmax(1) == islands.targets[validation]).mean()
    assert accuracy == pytest.approx(result["validation"]["accuracy"])
    weights = load_file(tmp_path / "fit" / "model.safetensors")
    trained = sum(w.numel() for name, w in weights.items() if "running" not in name and "num_batches" not in name)
    outputs = 2 * len(islands.classes)  # center and scale
    assert trained - outputs == result["trained_parameters"] <= result["parameters"]
    if method == "lora":
        assert result["trained_parameters"] < result["parameters"]
        base = load_file(small_model / "model.safetensors")
        assert not set(weights) & {f"backbone.{name}" for name in base}
        for name, value in network.backbone.named_parameters():
            if "lora_" not in name:
                assert torch.equal(value, base[name.replace("base_layer.", "")]), name


def test_learns_and_is_not_repeated(settings, start):
    better = changed(settings, finetune={"epochs": 6, "patience": 6, "lr": [5e-3], "batch_size": [16]})
    result = start(config=better)
    assert result["validation"]["accuracy"] > 0.75
    assert result["epochs"][-1]["loss"] < 0.8 * result["epochs"][0]["loss"]
    started = time.monotonic()
    assert start(config=better) == result
    assert time.monotonic() - started < result["seconds"] + 5


def test_the_same_seed_gives_the_same_network_and_another_one_another(start, tmp_path):
    found = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        start(seed=seed, out=tmp_path / name)
        found[name] = load_file(tmp_path / name / "model.safetensors")
    assert all(torch.equal(value, found["same"][name]) for name, value in found["one"].items())
    assert not torch.equal(found["one"]["head.weight"], found["other"]["head.weight"])


def test_scratch_begins_from_the_seed_and_finetune_from_what_was_trained(settings, start, small_model, tmp_path):
    """With a learning rate of next to nothing the weights stay what they were at the beginning."""
    base = load_file(small_model / "model.safetensors")
    name = "blocks.0.feed_forward.to_output.weight"
    for method in ("finetune", "scratch"):
        start(method, lr=1e-9, out=tmp_path / method)
    begun = load_file(tmp_path / "finetune" / "model.safetensors")[f"backbone.{name}"]
    fresh = load_file(tmp_path / "scratch" / "model.safetensors")[f"backbone.{name}"]
    torch.testing.assert_close(begun, base[name], atol=1e-6, rtol=0)
    assert (fresh - base[name]).abs().max() > 1e-2


def test_regression_is_in_the_units_of_the_targets(settings, config, small_store, prepared, start, tmp_path):
    better = changed(settings, finetune={"epochs": 6, "patience": 6, "lr": [5e-3], "batch_size": [16]})
    result = start(dataset="share", config=better)
    data = load_labelled(prepared / "share")
    train, validation, _ = draw(data, "caduceus", 0.25, 0)
    network = load_fitted(better, small_store, tmp_path / "fit")
    values, targets = predict(network, data, validation, Nucleotides(), "both", CPU), data.targets[validation]
    assert values.mean() == pytest.approx(data.targets[train].mean(), rel=0.05)
    r2 = 1 - ((values - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
    assert r2 == pytest.approx(result["validation"]["r2"], abs=1e-4)
    assert r2 > 0.3


def test_hyenadna_chooses_on_the_test_set_and_says_so(settings, start, islands, capsys):
    result = start(config=changed(settings, protocol="hyenadna"))
    assert "chosen on the test set" in capsys.readouterr().err
    assert result["selected_on"] == "test"
    assert result["sequences"] == {
        "train": int((islands.split < 2).sum()),
        "validation": int((islands.split == 2).sum()),
    }


def _ended_after(fitting, epochs):
    """Train on, and have the first epoch be the best."""
    real = fitting._rank
    fitting._rank = lambda row: (float(row["epoch"] == 1), real(row)[1])
    for epoch in range(len(fitting.history) + 1, epochs + 1):
        fitting.epoch(epoch, _Silent())


def test_the_best_weights_outlive_a_kill_that_leaves_only_the_checkpoint(tmp_path):
    """A workflow removes model.safetensors, an output of the job, when the job is killed."""
    first = a_fitting(tmp_path, epochs=3)
    _ended_after(first, 1)
    best = {name: value.clone() for name, value in finetune_fit.trained_weights(first.network).items()}
    _ended_after(first, 2)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    second = a_fitting(tmp_path, epochs=3)
    assert second.resume()
    _ended_after(second, 3)
    second.run(lambda *_: None)
    assert second.best_epoch == 1
    kept = load_file(tmp_path / "model.safetensors")
    assert set(kept) == set(best)
    assert all(torch.equal(value, kept[name]) for name, value in best.items())
    (tmp_path / "model.safetensors").unlink()  # killed after the last epoch, before fit.json
    third = a_fitting(tmp_path, epochs=3)
    assert third.resume()
    third.run(lambda *_: None)
    again = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in best.items())
    assert not torch.equal(best["head.weight"], third.network.head.weight)


def test_a_killed_fit_ends_with_the_weights_it_would_have_had(
    settings, start, small_store, small_model, prepared, tmp_path
):
    """Really killed, after its first epoch and in the midst of its second."""
    longer = settings["downstream"] | {"finetune": {"epochs": 3, "patience": 3, "dropout": 0.1}}
    config = parse_config(settings | {"downstream": longer}, "test")
    whole = start(config=config, out=tmp_path / "whole")
    code = f"""
import time
from pathlib import Path
from titans_genomics.config import parse_config
from titans_genomics.tasks import finetune, finetune_fit
real = finetune_fit.Fitting.step
def slow(self, rows, turned):
    if len(self.history) == 1 and self.steps == self.per_epoch + 1:
        Path({str(tmp_path / "now")!r}).touch()
        time.sleep(60)
    return real(self, rows, turned)
finetune_fit.Fitting.step = slow
config = parse_config({settings | {"downstream": longer}!r}, "test")
finetune.fit(config, Path({str(small_store)!r}), Path({str(prepared / "islands")!r}), Path({str(small_model)!r}),
             "finetune", "titans", {whole["trial"]!r}, 0, Path({str(tmp_path / "killed")!r}))
"""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env={**os.environ, **threads})
    while not (tmp_path / "now").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    (tmp_path / "killed" / "model.safetensors").unlink(missing_ok=True)  # as Snakemake does
    assert not (tmp_path / "killed" / "fit.json").exists()
    again = start(config=config, out=tmp_path / "killed")
    assert _without_times(again) == _without_times(whole)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert set(one) == set(other)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def _without_times(result):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in result["epochs"]]


def test_a_cnn_that_goes_on_has_its_batch_statistics(tmp_path):
    """Training in one go, and anew from what was kept after the first epoch, end the same."""

    def fresh():
        torch.manual_seed(0)
        return a_fitting(tmp_path, network=CNN(60, 2), epochs=3, patience=3)

    whole = fresh()
    whole.run(lambda *_: None)
    (tmp_path / "last.ckpt").unlink()
    first = fresh()
    first.epoch(1, _Silent())
    second = fresh()
    assert second.resume()
    second.run(lambda *_: None)
    assert len(second.history) == 3
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    assert _without_times({"epochs": whole.history}) == _without_times({"epochs": second.history})


def _with_vocabulary(store, out):
    """A copy of a token store whose tokens stand for others, as many of them."""
    shutil.copytree(store, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["vocabulary"][:2] = reversed(manifest["vocabulary"][:2])
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_the_identity_of_a_fit_knows_what_the_weights_depend_on(
    settings, config, islands, small_store, small_model, tmp_path
):
    def of(config=config, store=small_store, data=islands, method="scratch", folder=None):
        return identity(config, store, data, folder, method, "titans", "lr0.1-batch8", 0)

    assert difference(of(), of()) is None
    other = _with_vocabulary(small_store, tmp_path / "tokens")
    assert difference(of(), of(store=other)).startswith("tokenizer is ")
    assert difference(of(method="cnn"), of(method="cnn", store=tmp_path / "nowhere")) is None
    split = replace(islands, split=np.roll(islands.split, 1))
    assert difference(of(), of(data=split)).startswith("data is ")
    weights = shutil.copytree(small_model, tmp_path / "model")
    with (weights / "model.safetensors").open("ab") as file:
        file.write(b" ")
    one, two = (of(method="finetune", folder=folder) for folder in (small_model, weights))
    assert difference(one, two).startswith("pretrained is ")
    longer = changed(settings, finetune={"epochs": 4, "patience": 3})
    assert difference(of(), of(longer)) == "finetune.epochs is 3 there and 4 now"
    wider = parse_config(settings | {"model": settings["model"] | {"d_model": 32}}, "test")
    assert difference(of(), of(wider)) == "model.d_model is 16 there and 32 now"


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "trial", ["lr0.1", "batch5-lr0.1", "lr0-batch8", "lr0.1-batch0", "lr1e-3-batch8x", "lr5-batch8"]
)
def test_a_trial_is_a_learning_rate_and_a_batch(config, small_store, small_model, prepared, tmp_path, trial):
    with pytest.raises(ValueError, match="such as lr"):
        fit(config, small_store, prepared / "islands", small_model, "finetune", "titans", trial, 0, tmp_path)


def test_a_model_that_is_not_the_one_asked_for_is_refused(
    settings, config, small_store, small_model, prepared, tmp_path
):
    arguments = small_store, prepared / "islands"
    with pytest.raises(ValueError, match="holds the model 'titans', not 'transformer'"):
        fit(config, *arguments, small_model, "finetune", "transformer", "lr0.1-batch8", 0, tmp_path)
    wider = parse_config(settings | {"model": settings["model"] | {"d_model": 32}}, "test")
    with pytest.raises(ValueError, match=r"model.d_model is 16 there and 32 in the config"):
        fit(wider, *arguments, small_model, "finetune", "titans", "lr0.1-batch8", 0, tmp_path)
    other = parse_config(settings | {"data": settings["data"] | {"tokenizer": {"kind": "kmer", "k": 3}}}, "test")
    with pytest.raises(ValueError, match="made with other settings"):
        fit(other, *arguments, small_model, "finetune", "titans", "lr0.1-batch8", 0, tmp_path)
    with pytest.raises(FileNotFoundError, match="no trained model"):
        fit(config, *arguments, tmp_path, "finetune", "titans", "lr0.1-batch8", 0, tmp_path)
    with pytest.raises(ValueError, match="model 'lstm' is not one of this run's: titans"):
        fit(config, *arguments, tmp_path, "finetune", "lstm", "lr0.1-batch8", 0, tmp_path)
    with pytest.raises(ValueError, match="'knn' trains no network"):
        fit(config, *arguments, None, "knn", "titans", "lr0.1-batch8", 0, tmp_path)


def test_what_is_loaded_belongs_together(settings, start, config, small_store, small_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no fit here"):
        load_fitted(config, small_store, tmp_path)
    start("lora")
    other = _with_vocabulary(small_store, tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"was fitted with another config \(tokenizer is .* there and .* now\)"):
        load_fitted(config, other, tmp_path / "fit")
    wider = parse_config(settings | {"model": settings["model"] | {"n_layers": 2}}, "test")
    with pytest.raises(ValueError, match="was fitted with another config"):
        load_fitted(wider, small_store, tmp_path / "fit")
    described = json.loads((tmp_path / "fit" / "fit.json").read_text())
    copy = shutil.copytree(small_model, tmp_path / "copy")
    (tmp_path / "fit" / "fit.json").write_text(json.dumps(described | {"pretrained": "../copy"}))
    load_fitted(config, small_store, tmp_path / "fit")
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\1")
    with pytest.raises(ValueError, match="has other weights than when"):
        load_fitted(config, small_store, tmp_path / "fit")
    (tmp_path / "fit" / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "fit" / "fit.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="does not hold the network"):
        load_fitted(config, small_store, tmp_path / "fit")
