"""Training: the same data order whatever happens, skipped steps that leave no trace, and files that are whole."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import small_settings

from titans_genomics.config import TrainConfig, parse_config
from titans_genomics.data.alphabet import EOS
from titans_genomics.data.store import TokenStore, tokenize
from titans_genomics.data.windows import MASKED
from titans_genomics.training import fit, load_model, next_token_nll, train, with_vocabulary
from titans_genomics.training.logs import Metrics
from titans_genomics.training.module import NextToken, StepOrder, learning_rate

ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def config_of(folder, **changes):
    return parse_config(small_settings(folder, **changes), "small")


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def same_weights(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------------------------------------- parts


def test_loss_is_over_bases_only():
    logits = torch.randn(2, 5, 8)
    targets = torch.tensor([[0, 1, 2, 3, 4], [7, 5, 6, 0, 4]])
    nll = next_token_nll(logits, targets)
    expected = -torch.log_softmax(logits, -1).gather(2, targets[..., None])[..., 0]
    scored = targets < 4
    torch.testing.assert_close(nll[scored], expected[scored])
    assert (nll[~scored] == 0).all()


def test_uniform_logits_cost_two_bits_over_four_bases():
    logits = torch.full((1, 4, 8), -1e9)
    logits[..., :4] = 0
    bits = next_token_nll(logits, torch.tensor([[0, 1, 2, 3]])) / math.log(2)
    torch.testing.assert_close(bits, torch.full((1, 4), 2.0))


def test_schedule_warms_up_and_ends_at_the_least_rate():
    settings = TrainConfig(lr=1.0, min_lr=0.1, warmup=10, max_steps=100)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_order_covers_every_window_once_and_resumes_anywhere(world):
    whole = [list(StepOrder(0, 6, 4, rank, world)) for rank in range(world)]
    windows = sorted(i for rank in whole for batch in rank for i in batch)
    assert windows == list(range(6 * 4 * world))
    for rank in range(world):
        assert list(StepOrder(2, 6, 4, rank, world)) == whole[rank][2:]


def test_decay_only_where_it_belongs(small_folder):
    training = NextToken(config_of(small_folder, weight_decay=0.3).model_dump(mode="json"))
    decayed, plain = training.configure_optimizers().param_groups
    names = {id(p): name for name, p in training.model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {names[id(p)] for p in plain["params"]} == training.model.no_decay()
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(p.ndim >= 2 for p in decayed["params"])


def test_metrics_drop_the_rows_of_a_killed_process(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path, 0)
    for step in (10, 20, 30):
        metrics.log({"step": step, "loss": 1.0, "alpha/10": 0.1, "alpha/2": 0.2})
    with path.open("a") as file:
        file.write("40,")  # cut short
    Metrics(path, 20).log({"step": 30, "loss": 2.0, "alpha/2": 0.3})
    rows = rows_of(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [("10", "1"), ("20", "1"), ("30", "2")]
    assert list(rows[0])[-2:] == ["alpha/2", "alpha/10"]


# ---------------------------------------------------------------------------------------------- a run


def test_a_run_leaves_what_it_should(small_model, small_config, small_store):
    summary = json.loads((small_model / "train.json").read_text())
    assert summary["steps"] == 20
    assert summary["tokens"] == 20 * 4 * 64
    assert summary["skipped_steps"] == 0
    assert summary["hardware"]["cpu"]
    assert summary["versions"]["torch"] == torch.__version__
    rows = rows_of(small_model)
    assert [row["step"] for row in rows] == ["10", "20"]
    assert float(rows[-1]["bits_per_base"]) == pytest.approx(float(rows[-1]["loss"]) / math.log(2), rel=1e-5)
    assert summary["best_val_bits_per_base"] == pytest.approx(
        min(float(r["val_bits_per_base"]) for r in rows), rel=1e-5
    )
    assert {"alpha/0", "eta/0", "theta/0", "surprise/0"} <= set(rows[0])
    assert not [path for path in small_model.iterdir() if path.name.startswith(".")]
    model = load_model(small_model)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == summary["parameters"]
    best = torch.load(small_model / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(best[f"model.{name}"], value) for name, value in model.state_dict().items())


def test_the_same_config_gives_the_same_weights(small_model, small_config, small_store, tmp_path):
    train(small_config, small_store, tmp_path / "again")
    assert same_weights(small_model, tmp_path / "again")


def test_a_finished_run_is_not_trained_again(small_config, small_store, tmp_path, monkeypatch):
    first = train(small_config, small_store, tmp_path)
    (tmp_path / "train.json").unlink()
    monkeypatch.setattr(NextToken, "training_step", None)
    second = train(small_config, small_store, tmp_path)
    assert (first["best_val_loss"], first["steps"]) == (second["best_val_loss"], second["steps"])


@pytest.mark.parametrize(("accumulate", "blow"), [(3, signal.SIGKILL), (1, signal.SIGTERM)])
def test_a_killed_run_ends_with_the_same_weights(small_folder, small_store, tmp_path, accumulate, blow):
    """Killed in the middle, then the same command again: bit for bit what an undisturbed run gives."""
    changes = {"max_steps": 60, "accumulate": accumulate, "validate_every": 25, "checkpoint_every": 15, "batch_size": 2}
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(small_settings(small_folder, **changes)))

    def command(out):
        arguments = ["train", "--config", str(settings), "--store", str(small_store), "--out", str(out)]
        return [sys.executable, "-m", "titans_genomics.cli", *arguments]

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(undisturbed), check=True, env=ALONE, capture_output=True)
    process = subprocess.Popen(command(killed), env=ALONE, stderr=subprocess.DEVNULL)
    while not (killed / "last.ckpt").is_file():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(blow)
    assert process.wait() == (-9 if blow == signal.SIGKILL else 143)
    assert not (killed / "train.json").exists()
    again = subprocess.run(command(killed), check=True, env=ALONE, capture_output=True, text=True)
    assert "going on from" in again.stderr
    assert same_weights(undisturbed, killed)
    first, second = (torch.load(f / "last.ckpt", weights_only=True) for f in (undisturbed, killed))
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    curves = [
        [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows_of(f)]
        for f in (undisturbed, killed)
    ]
    assert curves[0] == curves[1] or blow == signal.SIGTERM  # which leaves a row and a checkpoint where it struck


@pytest.mark.parametrize("piece", [None, 24])
def test_two_processes_train_as_one_with_the_batches_of_both(small_folder, small_store, tmp_path, piece):
    results = []
    for name, changes in (("two", {"devices": 2, "strategy": "ddp", "batch_size": 2}), ("one", {"batch_size": 4})):
        settings = tmp_path / f"{name}.json"
        settings.write_text(json.dumps(small_settings(small_folder, accumulate=2, piece=piece, **changes)))
        arguments = ["--config", str(settings), "--store", str(small_store), "--out", str(tmp_path / name)]
        command = [sys.executable, "-m", "titans_genomics.cli", "train", *arguments]
        subprocess.run(command, check=True, env=ALONE, capture_output=True, timeout=120)
        results.append(rows_of(tmp_path / name))
    for two, one in zip(*results, strict=True):
        assert two["tokens"] == one["tokens"]
        for key in ("loss", "grad_norm", "val_loss"):
            assert float(two[key]) == pytest.approx(float(one[key]), rel=1e-4)


def test_a_slurm_job_of_one_task_uses_all_its_devices(small_folder, small_store, tmp_path):
    settings = tmp_path / "two.json"
    settings.write_text(json.dumps(small_settings(small_folder, devices=2, strategy="ddp", max_steps=2)))
    slurm = {"JOB_ID": "1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NNODES": "1", "JOB_NAME": "j"}
    arguments = ["--config", str(settings), "--store", str(small_store), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "titans_genomics.cli", "train", *arguments]
    environment = ALONE | {f"SLURM_{key}": value for key, value in slurm.items()}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    trained = json.loads((tmp_path / "out" / "train.json").read_text())
    assert int(rows_of(tmp_path / "out")[-1]["tokens"]) == trained["tokens"]
    other = subprocess.run(
        command, env=environment | {"SLURM_NTASKS": "3"}, capture_output=True, text=True, timeout=120
    )
    assert other.returncode == 2
    assert "train.devices x train.num_nodes is 2, but this SLURM job has 3 task(s)" in other.stderr


@pytest.mark.parametrize("piece", [None, 20, 1000])
def test_pieces_give_the_gradients_of_cut_history(small_config, piece):
    """Truncated back-propagation is the whole window with the state detached between pieces; the loss is the same."""
    settings = small_config.model_dump(mode="json")
    settings["train"]["piece"] = piece
    training = NextToken(settings).double()
    batch = torch.randint(0, 5, (2, 65), generator=torch.Generator().manual_seed(0))
    loss = training.training_step(batch, 0)
    loss.backward()
    found = {name: p.grad.clone() for name, p in training.model.named_parameters()}
    training.zero_grad()
    state, total = None, 0
    for tokens, targets in zip(batch[:, :-1].split(piece or 64, 1), batch[:, 1:].split(piece or 64, 1), strict=True):
        logits, state = training.model(tokens, state.detach() if state else None)
        total = total + next_token_nll(logits, targets).sum() / (batch[:, 1:] < 4).sum()
    total.backward()
    torch.testing.assert_close(training._losses[0], total.detach(), atol=1e-6, rtol=0)
    for name, p in training.model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_carried_batches_are_parts_of_the_same_stretches(accumulate):
    for rank in (0, 1):
        batches = list(StepOrder(0, 6 * accumulate, 2, rank, 2, accumulate, carry=3))
        for batch, items in enumerate(batches):
            step, micro = divmod(batch, accumulate)
            assert [i % 3 for i in items] == [step % 3] * 2
            first = batches[(step - step % 3) * accumulate + micro]
            assert [i // 3 for i in items] == [i // 3 for i in first]
    begun = [i for rank in (0, 1) for b in StepOrder(0, accumulate, 2, rank, 2, accumulate, carry=3) for i in b]
    assert sorted(begun) == list(range(0, 12 * accumulate, 3))


def test_the_memory_is_carried_from_step_to_step(small_config):
    """Step 2 of a stretch continues the state of step 1; step 3 begins anew; M_0 takes part in every backward pass."""
    settings = small_config.model_dump(mode="json")
    settings["train"]["carry"] = 2
    training = NextToken(settings)
    stretch = torch.randint(0, 4, (2, 129), generator=torch.Generator().manual_seed(0))
    losses = []
    for training.step, part in enumerate((stretch[:, :65], stretch[:, 64:], stretch[:, :65])):
        training._losses.clear()
        losses.append(training.training_step(part, 0))
        training.zero_grad()
        losses[-1].backward()
        assert all(p.grad is not None for p in training.model.parameters())
    with torch.no_grad():
        nll = next_token_nll(training.model(stretch[:, :-1])[0], stretch[:, 1:])
    torch.testing.assert_close(losses[0].detach(), nll[:, :64].mean())
    torch.testing.assert_close(losses[1].detach(), nll[:, 64:].mean())
    torch.testing.assert_close(losses[2], losses[0])


def test_a_killed_run_that_carries_its_memory_ends_with_the_same_weights(small_folder, small_store, tmp_path):
    """Checkpoints are written where a stretch begins, so that nothing carried is lost."""
    config = config_of(small_folder, carry=3, max_steps=14, checkpoint_every=4, validate_every=7)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(config.model_dump(mode="json")))

    def command(out):
        arguments = ["--config", str(settings), "--store", str(small_store), "--out", str(tmp_path / out)]
        return [sys.executable, "-m", "titans_genomics.cli", "train", *arguments]

    subprocess.run(command("whole"), check=True, env=ALONE, capture_output=True, timeout=120)
    process = subprocess.Popen(command("cut"), env=ALONE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "cut" / "last.ckpt").is_file():
        time.sleep(0.01)
    process.kill()
    process.wait()
    saved = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["titans_genomics"]["step"]
    assert saved % 3 == 0 or saved == 14
    subprocess.run(command("cut"), check=True, env=ALONE, capture_output=True, timeout=120)
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


# ------------------------------------------------------------------- soft-masking, documents, tokens


def batch_of(*documents):
    """Rows of one window each, made of documents that end in EOS, cut to the same length."""
    rows = [[token for document in row for token in [*document, EOS]] for row in documents]
    length = min(map(len, rows))
    return torch.tensor([row[:length] for row in rows])


def random_documents(seed, *lengths):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 4, length).tolist() for length in lengths]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("piece", [None, 20])
def test_soft_masked_bases_weigh_less_in_the_loss(small_folder, weight, piece):
    training = NextToken(config_of(small_folder, soft_mask_weight=weight, piece=piece).model_dump(mode="json"))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 8, (3, 65), generator=generator)
    masked = torch.rand(3, 65, generator=generator) < 0.4
    loss = training.training_step(tokens + masked * MASKED, 0)
    loss.backward()
    found = {name: p.grad.clone() for name, p in training.model.named_parameters()}
    training.zero_grad()
    targets = tokens[:, 1:]
    state, total = None, 0
    weights = torch.where(masked[:, 1:], weight, 1.0) * (targets < 4)
    for part, following, weighing in zip(
        *(x.split(piece or 64, 1) for x in (tokens[:, :-1], targets, weights)), strict=True
    ):
        logits, state = training.model(part, state.detach() if state else None)
        total = total + (next_token_nll(logits, following) * weighing).sum() / weights.sum()
    total.backward()
    for name, p in training.model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-6, rtol=1e-4)
    if piece is None:
        torch.testing.assert_close(loss.detach(), total.detach())
        nll = next_token_nll(training.model(tokens[:, :-1])[0], targets)
        torch.testing.assert_close(training._losses[0], (nll.sum() / (targets < 4).sum()).detach())


def test_a_window_of_nothing_but_soft_masked_bases_does_not_break_the_step(small_folder):
    training = NextToken(config_of(small_folder, soft_mask_weight=0).model_dump(mode="json"))
    loss = training.training_step(torch.zeros(2, 65, dtype=torch.int64) + MASKED, 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in training.model.parameters())


def test_soft_masking_reaches_training_from_the_file(small_folder, small_model, tmp_path):
    """With lower case in the genome the weight changes what is learned; without, it changes nothing."""
    lower = tmp_path / "genome.fa"
    lines = (small_folder / "genome.fa").read_text().splitlines()
    letters = [line if line[0] == ">" else line[:9_000] + line[9_000:14_000].lower() + line[14_000:] for line in lines]
    lower.write_text("\n".join(letters) + "\n")
    models = {}
    for folder in (small_folder, tmp_path):
        tokenize(parse_config(small_settings(folder), "x"), tmp_path / folder.name / "tokens")
        for weight in (1.0, 0.3):
            out = tmp_path / f"{folder.name}-{weight}"
            train(config_of(folder, soft_mask_weight=weight), tmp_path / folder.name / "tokens", out)
            models[folder, weight] = out
    assert same_weights(small_model, models[small_folder, 1.0])
    assert same_weights(small_model, models[small_folder, 0.3])
    assert same_weights(small_model, models[tmp_path, 1.0])
    assert not same_weights(small_model, models[tmp_path, 0.3])


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "transformer"])
def test_documents_with_a_memory_of_their_own(small_folder, variant):
    """The loss of a window is that of its documents each read alone, and nothing crosses from one into another."""
    settings = small_settings(small_folder, documents="reset")
    settings["model"] |= {"segment": 16, "window": 16} | ({} if variant == "transformer" else {"variant": variant})
    config = parse_config(settings, "x").model_dump(mode="json")
    training = NextToken(config, "transformer" if variant == "transformer" else "titans")
    rows = [random_documents(0, 9, 30, 1, 40), random_documents(1, 50, 3, 40)]
    batch = batch_of(*rows)
    inputs, targets = batch[:, :-1], batch[:, 1:]
    with torch.no_grad():
        logits = training(inputs)
        loss = training.training_step(batch, 0)
        nll = []
        for row in range(2):
            begin = 0
            for end in [*((inputs[row] == EOS).nonzero()[:, 0] + 1).tolist(), inputs.shape[1]]:
                alone = training.model(inputs[row : row + 1, begin:end])[0]
                torch.testing.assert_close(logits[row, begin:end], alone[0], atol=1e-5, rtol=1e-4)
                nll.append(next_token_nll(alone, targets[row : row + 1, begin:end]))
                begin = end
        expected = sum(part.sum() for part in nll) / (targets < 4).sum()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(training.validation_step(batch, 0)[0], expected.double() * (targets < 4).sum())
        for changed in range(4):
            other = [list(document) for document in rows[0]]
            other[changed] = random_documents(7 + changed, len(other[changed]))[0]
            again = training(batch_of(other, rows[1])[:, :-1])
            at = 0
            for number, document in enumerate(rows[0]):
                here = slice(at, min(at + len(document) + 1, inputs.shape[1]))
                same = torch.equal(logits[0, here], again[0, here])
                assert same == (number != changed) or rows[0][number] == other[number]
                at += len(document) + 1
            assert torch.equal(logits[1], again[1])


def test_documents_that_are_joined_do_read_on(small_folder):
    training = NextToken(config_of(small_folder).model_dump(mode="json"))
    rows = [random_documents(0, 9, 30), [random_documents(3, 9)[0], random_documents(0, 9, 30)[1]]]
    with torch.no_grad():
        logits = training(batch_of(*rows))
    assert not torch.equal(logits[0, 10:], logits[1, 10:])


@pytest.mark.parametrize(
    "tokenizer",
    [{"kind": "kmer", "k": 3}, {"kind": "kmer", "k": 3, "overlap": True}, {"kind": "bpe", "vocab_size": 64}],
    ids=str,
)
def test_training_on_tokens_of_several_bases(small_folder, tmp_path, tokenizer):
    """The model has the vocabulary of the store, and its loss is per base."""
    settings = small_settings(small_folder, context=32, max_steps=2)
    settings["data"]["tokenizer"] = tokenizer
    config = parse_config(settings, "x")
    tokenize(config, tmp_path / "tokens")
    summary = train(config, tmp_path / "tokens", tmp_path / "out")
    own = TokenStore(tmp_path / "tokens").tokenizer
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["config"]["vocab_size"] == own.vocab_size
    assert description["vocabulary"] == list(own.vocabulary)
    assert summary["steps"] == 2
    training = NextToken(with_vocabulary(config, TokenStore(tmp_path / "tokens")).model_dump(mode="json"))
    training.read_tokens_of(own)
    batch = torch.randint(0, own.vocab_size, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        training.training_step(batch, 0)
        logits = training.model(batch[:, :-1])[0]
    bases = torch.from_numpy(np.where(own.scored, own.bases, 0))[batch[:, 1:]]
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
    torch.testing.assert_close(training._losses[0], nll[bases > 0].sum() / bases.sum())
    settings["model"]["vocab_size"] = 100
    with pytest.raises(ValueError, match=r"model\.vocab_size is 100, the tokens of .* are .*Leave it out"):
        train(parse_config(settings, "x"), tmp_path / "tokens", tmp_path / "other")


def test_training_on_text(tmp_path):
    (tmp_path / "x.txt").write_text("<|endoftext|>\n".join(f"the {i}th of many lines\n" * 3 for i in range(60)))
    settings = small_settings(tmp_path, max_steps=2, reverse_complement=0, documents="reset")
    settings["data"]["sources"] = [{"path": str(tmp_path / "x.txt"), "kind": "text"}]
    settings["data"]["tokenizer"] = {"kind": "byte"}
    config = parse_config(settings, "x")
    tokenize(config, tmp_path / "tokens")
    summary = train(config, tmp_path / "tokens", tmp_path / "out")
    assert 0 < summary["best_val_bits_per_base"] < 9


# --------------------------------------------------------------------------------------- not finite


class Snapshots:
    """Weights and optimiser moments after every step."""

    def __init__(self, monkeypatch):
        self.taken = {}
        original = fit.Recorder.on_train_batch_end

        def after(recorder, trainer, training, *rest):
            moments = trainer.optimizers[0].state_dict()["state"]
            self.taken[training.step] = (
                {name: value.clone() for name, value in training.state_dict().items()},
                {(i, key): value.clone() for i, state in moments.items() for key, value in state.items()},
            )
            original(recorder, trainer, training, *rest)

        monkeypatch.setattr(fit.Recorder, "on_train_batch_end", after)

    def same(self, one, other):
        pairs = zip(self.taken[one], self.taken[other], strict=True)
        return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def poison(monkeypatch, steps, value=math.nan):
    """Make the loss of these steps (0 is the first) ``value``."""
    original = NextToken.training_step

    def training_step(training, batch, batch_idx):
        loss = original(training, batch, batch_idx)
        if training.step in steps:
            loss = loss * value
            training._losses[-1] = loss.detach()
        return loss

    monkeypatch.setattr(NextToken, "training_step", training_step)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nonfinite_step_is_skipped_and_counted(small_config, small_store, tmp_path, monkeypatch, capsys, value):
    snapshots = Snapshots(monkeypatch)
    poison(monkeypatch, {4, 7, 8}, value)
    summary = train(small_config, small_store, tmp_path)
    assert summary["skipped_steps"] == 3
    assert summary["steps"] == 20
    for step in range(1, 20):
        assert snapshots.same(step, step + 1) == (step in {4, 7, 8})
    assert all(value.isfinite().all() for value in load_model(tmp_path).state_dict().values())
    assert rows_of(tmp_path)[-1]["skipped"] == "3"
    assert np.isfinite([float(row["loss"]) for row in rows_of(tmp_path)]).all()
    assert capsys.readouterr().err.count("skipped, weights unchanged") == 3


def test_a_gradient_that_is_not_finite_names_the_parameter(small_config, small_store, tmp_path, monkeypatch, capsys):
    original = NextToken.training_step

    def training_step(training, batch, batch_idx):
        if training.step == 2:
            training.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
        return original(training, batch, batch_idx)

    monkeypatch.setattr(NextToken, "training_step", training_step)
    with pytest.raises(ValueError, match=r"10 steps in a row.*first head\.weight"):
        train(small_config, small_store, tmp_path)
    assert "step 3 skipped" in capsys.readouterr().err


def test_ten_in_a_row_stop_the_run_with_the_cause(small_config, small_store, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(3, 20)))
    with pytest.raises(ValueError, match=r"10 steps in a row.*step 13.*the loss is nan.*inner step.*Lower train\.lr"):
        train(small_config, small_store, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"model.safetensors", "model.json", "train.json"}
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["titans_genomics"]["step"] == 10


def test_nine_in_a_row_do_not(small_config, small_store, tmp_path, monkeypatch):
    poison(monkeypatch, {*range(9), *range(10, 19)})
    assert train(small_config, small_store, tmp_path)["skipped_steps"] == 18


def test_two_processes_skip_together(small_folder, small_store, tmp_path):
    """A loss that is not finite on one of two processes: both skip that step."""
    settings = small_settings(small_folder, devices=2, strategy="ddp")
    script = tmp_path / "script.py"
    script.write_text(f"""
import os
from pathlib import Path
from titans_genomics.config import parse_config
from titans_genomics.training import NextToken, train

original = NextToken.training_step
def training_step(training, batch, batch_idx):
    loss = original(training, batch, batch_idx)
    return loss * float("nan") if training.step == 3 and os.environ.get("LOCAL_RANK") == "1" else loss
NextToken.training_step = training_step
train(parse_config({settings!r}, "small"), Path({str(small_store)!r}), Path({str(tmp_path / "out")!r}))
""")
    subprocess.run([sys.executable, str(script)], check=True, env=ALONE, capture_output=True, timeout=120)
    assert json.loads((tmp_path / "out" / "train.json").read_text())["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in load_model(tmp_path / "out").state_dict().values())


# ------------------------------------------------------------------------------------- what goes wrong


def unfinished(config, store, out, monkeypatch):
    """A run that stopped after its checkpoint at step 10."""
    with monkeypatch.context() as patch:
        poison(patch, set(range(10, 20)))
        with pytest.raises(ValueError, match="in a row"):
            train(config, store, out)


def test_a_checkpoint_of_another_config_is_an_error(small_folder, small_config, small_store, tmp_path, monkeypatch):
    unfinished(small_config, small_store, tmp_path, monkeypatch)
    before = (tmp_path / "last.ckpt").read_bytes()
    other = config_of(small_folder, lr=1e-3)
    with pytest.raises(
        ValueError, match=r"last\.ckpt.*step 10.*\n  train\.lr: 0\.005 in the checkpoint, 0\.001 now\n.*run name"
    ):
        train(other, small_store, tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert train(other, small_store, tmp_path, resume=False)["steps"] == 20


def test_settings_that_change_no_weight_may_change(
    small_folder, small_config, small_store, small_model, tmp_path, monkeypatch
):
    unfinished(small_config, small_store, tmp_path, monkeypatch)
    train(config_of(small_folder, checkpoint_every=7, max_nonfinite=3), small_store, tmp_path)
    assert same_weights(small_model, tmp_path)


def test_a_finished_run_of_another_config_is_replaced(small_folder, small_config, small_store, tmp_path):
    train(small_config, small_store, tmp_path)
    train(config_of(small_folder, max_steps=5), small_store, tmp_path)
    assert json.loads((tmp_path / "train.json").read_text())["steps"] == 5
    assert [row["step"] for row in rows_of(tmp_path)] == ["5"]


def test_a_damaged_checkpoint_is_an_error(small_config, small_store, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt: not a readable checkpoint.*delete"):
        train(small_config, small_store, tmp_path)


def test_devices_that_are_not_there(small_folder, small_store, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"train\.accelerator is gpu.*no GPU"):
        train(config_of(small_folder, accelerator="gpu"), small_store, tmp_path / "out")
    with pytest.raises(ValueError, match=r"fsdp.*ddp"):
        train(config_of(small_folder, strategy="fsdp"), small_store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_window_that_does_not_fit(small_folder, small_store, tmp_path):
    with pytest.raises(ValueError, match=r"train\.context"):
        train(config_of(small_folder, context=29_000), small_store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_shorter_than_one_window_beside_a_longer_one_is_noted(small_folder, tmp_path, capsys):
    (small_folder / "plasmid.fa").write_text(">p\n" + "ACGTTGCA" * 20 + "\n")
    settings = small_settings(small_folder, max_steps=1, context=256)
    settings["data"]["sources"].append({"path": str(small_folder / "plasmid.fa")})
    config = parse_config(settings, "two")
    tokenize(config, tmp_path / "tokens")
    train(config, tmp_path / "tokens", tmp_path / "out")
    assert "source plasmid is not trained on" in capsys.readouterr().err


def test_a_model_without_its_weights(small_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained model"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_bytes((small_model / "model.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((small_model / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors.*train the model again"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model\.json"):
        load_model(tmp_path)


# ------------------------------------------------------------------------------------------------ W&B


def test_wandb_offline_keeps_references_not_copies(small_folder, small_store, tmp_path):
    summary = train(config_of(small_folder, wandb={"mode": "offline"}), small_store, tmp_path)
    assert summary["steps"] == 20
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    recorded = log.read_bytes()
    for expected in (b"genome.bases", b"best.ckpt", b"bits_per_base", b"alpha/0"):
        assert expected in recorded
    copies = [path for path in (tmp_path / "wandb").rglob("*") if path.name in ("genome.bases", "best.ckpt")]
    assert not copies


def test_broken_wandb_does_not_stop_training(small_folder, small_store, small_model, tmp_path, monkeypatch, capsys):
    import wandb

    def broken(**_):
        raise RuntimeError("no space left")

    monkeypatch.setattr(wandb, "init", broken)
    train(config_of(small_folder, wandb={"mode": "offline"}), small_store, tmp_path)
    assert "W&B is off (RuntimeError: no space left)" in capsys.readouterr().err
    assert same_weights(small_model, tmp_path)
    assert len(rows_of(tmp_path)) == 2


def test_wandb_that_breaks_on_the_way_does_not_either(small_folder, small_store, tmp_path, monkeypatch, capsys):
    import wandb

    class Run:
        def __getattr__(self, name):
            raise ConnectionError(name)

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    train(config_of(small_folder, wandb={"mode": "offline"}), small_store, tmp_path)
    assert capsys.readouterr().err.count("W&B is off") == 1
    assert len(rows_of(tmp_path)) == 2


def test_a_store_of_other_settings_is_refused(small_folder, small_store, tmp_path):
    settings = small_settings(small_folder)
    settings["data"]["sources"][0]["weight"] = 3
    settings["data"]["split"]["block"] = 500
    with pytest.raises(
        ValueError,
        match=r"made with other settings \(data.sources.genome.weight is 1.0 there and 3.0 in the config; data.split.block is 1000",
    ):
        train(parse_config(settings, "other"), small_store, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_files_may_lie_elsewhere_than_when_the_store_was_made(small_folder, small_store):
    settings = small_settings(small_folder)
    settings["data"] |= {"downloads": "elsewhere"}
    settings["data"]["sources"][0]["path"] = "/moved/genome.fa"
    store = TokenStore(small_store)
    assert with_vocabulary(parse_config(settings, "moved"), store).model.vocab_size == 8
