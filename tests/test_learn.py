"""Training on a task: the same whether it was killed or not, and no step that is not finite changes a weight."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from titans_genomics.config import LearnConfig
from titans_genomics.tasks import learn as module
from titans_genomics.tasks.learn import Task, learn, schedule

TRUE = torch.tensor([[1.0, -2.0, 0.5]])


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def network():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=generator)
    return x, x @ TRUE.T + 1


def loss(net, drawn):
    x, y = drawn
    value = (net(x) - y).square().mean()
    return value, {"step_loss": float(value.detach())}


def distance(net):
    return float((net.weight - TRUE).square().sum().detach())


TASK = Task(batch, loss, distance, validate_every=4)
SETTINGS = LearnConfig(steps=30, lr=0.05, checkpoint_every=7)


def run(folder, task=TASK, settings=SETTINGS, net=None, **identity):
    net = network() if net is None else net
    return net, learn(net, task, settings, folder, {"seed": 1, **identity}, "a line")


def killed_at(step, task=TASK):
    def batch(asked):
        if asked == step:
            raise Killed
        return task.batch(asked)

    return replace(task, batch=batch)


def without_time(result):
    return {key: value for key, value in result.items() if key != "seconds"}


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("steps", [30, 250], ids=["a row per step", "rows of several steps"])
def test_killed_is_not_killed(tmp_path, steps):
    settings = SETTINGS.model_copy(update={"steps": steps})
    whole, expected = run(tmp_path / "whole", settings=settings)
    for step in (5, 11, 23):  # before the first checkpoint and between later ones
        with pytest.raises(Killed):
            run(tmp_path / "killed", killed_at(step), settings)
    resumed, found = run(tmp_path / "killed", settings=settings)
    assert same_weights(resumed, whole)
    assert without_time(found) == without_time(expected)


def test_a_resumed_run_draws_only_what_is_left(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(23))
    asked = []
    run(tmp_path, replace(TASK, batch=lambda step: asked.append(step) or batch(step)))
    assert asked == list(range(21, 30))


def test_a_finished_run_is_not_done_again(tmp_path):
    first, expected = run(tmp_path)
    again, found = run(tmp_path, killed_at(0))
    assert found == expected
    assert same_weights(first, again)
    assert not again.training


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"settings": SETTINGS.model_copy(update={"lr": 0.01})},
        {"task": replace(TASK, validate_every=5)},
        {"net": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))},
    ],
    ids=["identity", "learning rate", "validation", "network"],
)
def test_another_identity_starts_anew(tmp_path, changed):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(23))
    asked = []
    task = changed.pop("task", TASK)
    if "net" in changed:
        task = replace(task, validate=None)
    run(tmp_path, replace(task, batch=lambda step: asked.append(step) or batch(step)), **changed)
    assert asked == list(range(30))


def test_how_often_checkpoints_are_written_does_not_matter_to_a_resumed_run(tmp_path):
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_at(23))
    asked = []
    task = replace(TASK, batch=lambda step: asked.append(step) or batch(step))
    resumed, _ = run(tmp_path / "killed", task, SETTINGS.model_copy(update={"checkpoint_every": 3}))
    assert asked[0] == 21
    assert same_weights(resumed, whole)


def test_an_unreadable_checkpoint_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint .* delete it"):
        run(tmp_path)


def spoiled(steps, value=float("nan")):
    """The task, with a loss that is no number at some steps."""

    def bad(net, drawn):
        found, figures = loss(net, drawn[1])
        return (found * value, figures) if drawn[0] in steps else (found, figures)

    return replace(TASK, batch=lambda step: (step, batch(step)), loss=bad, validate=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, value):
    net, result = run(tmp_path, spoiled({3, 4, 17}, value))
    assert result["skipped"] == 3
    assert result["steps"] == 30
    assert all(torch.isfinite(weight).all() for weight in net.parameters())
    assert [sorted(row) for row in result["curve"] if row["step"] in (4, 5, 18)] == [["step"]] * 3
    assert len([row for row in result["curve"] if "loss" in row]) == 27


def test_a_skipped_step_leaves_the_weights_as_they_were(tmp_path):
    seen = []

    def watched(net, drawn):
        seen.append(net.weight.detach().clone())
        return spoiled({3}).loss(net, drawn)

    run(tmp_path, replace(spoiled({3}), loss=watched))
    assert torch.equal(seen[3], seen[4])
    assert not torch.equal(seen[4], seen[5])


def test_ten_in_a_row_end_the_training(tmp_path):
    _, result = run(tmp_path / "nine", spoiled(set(range(5, 14))))
    assert result["skipped"] == 9
    with pytest.raises(
        ValueError, match=r"a line: 10 steps in a row were not finite, the last at step 15; lower fit.lr"
    ):
        run(tmp_path / "ten", spoiled(set(range(5, 15))))


def test_steps_in_a_row_are_counted_across_a_kill(tmp_path):
    task = spoiled(set(range(5, 15)))
    with pytest.raises(Killed):
        run(tmp_path, killed_at(8, task))
    with pytest.raises(ValueError, match="the last at step 15"):
        run(tmp_path, task)


def test_the_best_weights_are_kept(tmp_path):
    seen = []

    def validate(net):
        assert not net.training
        assert not torch.is_grad_enabled()
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return (5.0, 3.0, float("nan"), 2.0, 2.0, 4.0, 9.0, 7.0)[len(seen) - 1]

    net, result = run(tmp_path, replace(TASK, validate=validate))
    assert (result["best"], result["best_step"]) == (2.0, 16)
    assert [row["step"] for row in result["curve"] if "validation" in row] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert all(torch.equal(value, seen[3][name]) for name, value in net.state_dict().items())


def test_without_validation_the_last_weights_are_kept(tmp_path):
    _, result = run(tmp_path, replace(TASK, validate=None))
    assert (result["best"], result["best_step"]) == (None, 30)


def test_no_steps_leave_the_network_as_it_is(tmp_path):
    net, result = run(tmp_path, settings=LearnConfig(steps=0))
    assert same_weights(net, network())
    assert (result["steps"], result["curve"], result["best"]) == (0, [], None)


def test_rows_are_means_since_the_row_before(tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 250})
    seen = []

    def watched(net, drawn):
        value, figures = loss(net, drawn)
        seen.append(figures["step_loss"])
        return value, figures

    _, result = run(tmp_path, replace(TASK, loss=watched, validate=None), settings)
    assert [row["step"] for row in result["curve"]] == [*range(3, 250, 3), 250]
    begin = 0
    for row in result["curve"]:
        own = seen[begin : row["step"]]
        assert row["step_loss"] == pytest.approx(sum(own) / len(own))
        assert row["loss"] == pytest.approx(row["step_loss"], rel=1e-6)
        begin = row["step"]


def test_learning_lowers_the_loss(tmp_path):
    net, result = run(tmp_path, settings=LearnConfig(steps=300, lr=0.05, weight_decay=0.0))
    assert result["best"] < 1e-3
    assert torch.allclose(net.weight, TRUE, atol=0.05)


def test_decay_spares_what_the_network_names(tmp_path):
    class Spares(nn.Module):
        def __init__(self):
            super().__init__()
            self.free, self.decayed = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

        def no_decay(self):
            return {"free"}

    task = Task(lambda step: step, lambda net, drawn: ((net.free + net.decayed).sum() * 0.0, {}))
    net, _ = run(tmp_path, task, LearnConfig(steps=20, lr=0.1, weight_decay=0.5), Spares())
    assert torch.equal(net.free, torch.ones(2))
    assert (net.decayed < 0.9).all()


def test_frozen_parameters_stay(tmp_path):
    net = network()
    net.bias.requires_grad_(False)
    before = net.bias.clone()
    run(tmp_path, net=net)
    assert torch.equal(net.bias, before)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_rate_rises_in_a_line_and_falls_as_a_cosine_to_a_tenth(warmup):
    steps = 200
    rates = [schedule(step, steps, warmup) for step in range(steps + 1)]
    warm = max(1, round(warmup * steps))
    assert rates[:warm] == pytest.approx([(i + 1) / warm for i in range(warm)])
    assert max(rates) == rates[warm] == 1
    assert rates[steps] == pytest.approx(0.1)
    middle = warm + (steps - warm) // 2
    assert rates[middle] == pytest.approx(0.55, abs=0.01)
    assert all(a > b for a, b in zip(rates[warm:], rates[warm + 1 :], strict=False))


def test_each_step_has_the_rate_of_the_schedule(tmp_path, monkeypatch):
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, *arguments, **keywords):
            seen.append(self.param_groups[0]["lr"])
            return super().step(*arguments, **keywords)

    monkeypatch.setattr(module.torch.optim, "AdamW", Watched)
    run(tmp_path)
    assert seen == pytest.approx([SETTINGS.lr * schedule(step, 30, SETTINGS.warmup) for step in range(30)])


def test_gradients_are_clipped_to_the_largest_norm(tmp_path):
    norms = []

    class Watched(nn.Linear):
        def no_decay(self):
            return set()

    net = Watched(3, 1)
    hooked = torch.optim.AdamW.step

    def step(self, *arguments, **keywords):
        norms.append(
            math.sqrt(sum(float(p.grad.square().sum()) for group in self.param_groups for p in group["params"]))
        )
        return hooked(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        run(tmp_path, settings=SETTINGS.model_copy(update={"clip": 0.25}), net=net)
    assert max(norms) == pytest.approx(0.25, rel=1e-3)
