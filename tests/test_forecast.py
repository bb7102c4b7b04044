"""Forecasting: windows, errors against a naive count, no leak of the future, training that can be killed, the table and the plot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from titans_genomics.config import Config, parse_config
from titans_genomics.data.series import load_series
from titans_genomics.report import task_tables
from titans_genomics.report.forecast_plot import forecasts
from titans_genomics.report.plots import Look
from titans_genomics.tasks.forecast import forecast, measure, table
from titans_genomics.tasks.forecast_fit import evaluate, example, fit, load_forecaster, middle, windows
from titans_genomics.tasks.learn import learn

STEPS, LOOKBACK = 300, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with series.csv: waves of a day and noise, 300 hours, two columns."""
    folder = tmp_path_factory.mktemp("series")
    hours = np.arange(STEPS)
    rng = np.random.default_rng(2)
    waves = np.stack([np.sin(hours / 24 * 2 * np.pi), 10 + 3 * np.cos(hours / 12 * 2 * np.pi)], 1)
    values = waves + 0.1 * rng.normal(size=waves.shape)
    lines = [f"2020-01-{1 + h // 24:02d} {h % 24:02d}:00:00,{a:.4f},{b:.4f}" for h, (a, b) in enumerate(values)]
    (folder / "series.csv").write_text("\n".join(["date,wave,swing", *lines]) + "\n")
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run": "waves",
        "results": str(folder / "results"),
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "memory_expansion": 1.0, "chunk": 2, "conv": 2, "segment": 2, "window": 4},
        "compare": {"attention": {"variant": "transformer"}},
        "train": {"accelerator": "cpu"},
        "forecast": {
            "path": str(folder / "series.csv"),
            "lookback": LOOKBACK,
            "horizons": [6, 12],
            "patch": 6,
            "stride": 6,
            "fit": {"steps": 20, "batch_size": 8, "lr": 0.01, "checkpoint_every": 5},
        }
        | changes,
    }  # fmt: skip


def make(folder: Path, **changes: Any) -> Config:
    return parse_config(settings(folder, **changes), "waves")


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[Config, Path, dict[str, Any]]:
    """Everything of a small run, with two seeds: config, folder, table."""
    config = make(folder, seeds=[0, 1])
    return config, folder / "out", forecast(config, folder / "out")


# ------------------------------------------------------------------------------------------- measuring


def test_errors_are_those_of_every_window_counted_by_hand(measured):
    config, out, whole = measured
    series = load_series(config.forecast)
    raw, part, horizon = series.values.astype(np.float64), series.splits["test"], 12
    network, _ = load_forecaster(out / "titans" / "seed1" / "h12")
    squared, absolute, count = np.zeros(2), np.zeros(2), 0
    for first in range(STEPS - int(0.2 * STEPS), STEPS - horizon + 1):
        with torch.no_grad():
            found = network(torch.tensor(raw[None, first - LOOKBACK : first], dtype=torch.float32))[0].numpy()
        squared += ((found - raw[first : first + horizon]) ** 2).mean(0)
        absolute += np.abs(found - raw[first : first + horizon]).mean(0)
        count += 1
    result = json.loads((out / "titans" / "seed1" / "result.json").read_text())["horizons"]["12"]
    assert result["windows"] == count == part.windows(horizon) == 60 - 11
    assert result["mse"] == pytest.approx(squared.mean() / count, rel=1e-5)
    assert result["mae"] == pytest.approx(absolute.mean() / count, rel=1e-5)
    assert result["columns"]["swing"]["mse"] == pytest.approx(squared[1] / count, rel=1e-5)
    other = json.loads((out / "titans" / "seed0" / "result.json").read_text())["horizons"]["12"]
    own = whole["models"]["titans"]["horizons"]["12"]
    assert own["mse"] == pytest.approx((result["mse"] + other["mse"]) / 2)
    assert own["mse_deviation"] == pytest.approx(abs(result["mse"] - other["mse"]) / 2**0.5)


def test_last_value_by_hand(measured):
    config, _, whole = measured
    values = load_series(config.forecast).values.astype(np.float64)
    errors = [(values[first + ahead] - values[first - 1]) ** 2 for first in range(240, STEPS - 5) for ahead in range(6)]
    assert whole["models"]["last"]["horizons"]["6"]["mse"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert whole["models"]["last"]["seeds"] == [0]


def test_waves_are_learned(measured):
    _, _, whole = measured
    errors = {name: own["horizons"]["12"]["mse"] for name, own in whole["models"].items()}
    assert whole["steps"] == {"all": 300, "train": 210, "validation": 30, "test": 60}
    assert set(errors) == {"titans", "attention", "last", "dlinear"}
    assert errors["titans"] < errors["last"] / 2
    assert errors["attention"] < errors["last"] / 2


@pytest.mark.parametrize("most", [1, 7, 48, 49, 1000])
def test_fewer_windows_are_spread_evenly(measured, most):
    config, out, _ = measured
    series = load_series(config.forecast)
    network, _ = load_forecaster(out / "dlinear" / "seed0" / "h12")
    part = series.splits["test"]
    found = evaluate(network, series, part, 12, most)
    origins = [part.start + round(i * 48 / max(1, most - 1)) for i in range(most)] if most < 49 else range(240, 289)
    x, y = windows(torch.from_numpy(series.values), np.array(list(origins)), LOOKBACK, 12)
    with torch.no_grad():
        wanted = float((network(x) - y).double().square().mean())
    assert found["windows"] == min(most, 49)
    assert found["mse"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["titans", "attention", "dlinear", "last"])
def test_the_future_changes_no_forecast(measured, name):
    config, out, whole = measured
    series = load_series(config.forecast)
    if name == "last":
        network = fit(config, series, out / "none", "last", 0, 12, "last")[0]
    else:
        network, _ = load_forecaster(out / name / "seed0" / "h12")
    before = example(network, series, 12)
    assert before == whole["models"][name]["horizons"]["12"]["example"]
    first = middle(series, 12)
    series.values[first:] = 1e6
    assert example(network, series, 12) == before
    series.values[first - 1] += 1
    assert example(network, series, 12) != before


def test_held_out_values_do_not_reach_the_weights(folder, tmp_path):
    lines = (folder / "series.csv").read_text().splitlines()
    last = len(lines) - 60  # the test split
    altered = [line if i < last else re.sub(r",.*", ",5.5,-4.0", line) for i, line in enumerate(lines)]
    (tmp_path / "series.csv").write_text("\n".join(altered) + "\n")
    weights = []
    for place in (folder, tmp_path):
        config = make(place)
        network, _ = fit(config, load_series(config.forecast), tmp_path / place.name, "titans", 0, 6, "x")
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# -------------------------------------------------------------------------------------------- training


def test_batches_are_training_windows(folder, monkeypatch, tmp_path):
    config = make(folder)
    series = load_series(config.forecast)
    seen = []

    def watch(network, task, settings, out, identity, title):
        seen.extend(task.batch(step) for step in range(400))
        assert all(torch.equal(a, b) for a, b in zip(task.batch(3), seen[3], strict=True))
        return learn(network, task, settings, out, identity, title)

    monkeypatch.setattr("titans_genomics.tasks.forecast_fit.learn", watch)
    fit(config, series, tmp_path, "dlinear", 0, 6, "x")
    values = torch.from_numpy(series.values)
    place = {tuple(values[i].tolist()): i for i in range(STEPS)}
    firsts = set()
    for x, y in seen:
        for row, ahead in zip(x, y, strict=True):
            first = place[tuple(ahead[0].tolist())]
            assert torch.equal(torch.cat([row, ahead]), values[first - LOOKBACK : first + 6])
            firsts.add(first)
    assert firsts == set(range(LOOKBACK, 210 - 6 + 1))  # every window of the first 70%, and no other


def test_killed_and_started_again_is_as_never_killed(folder, tmp_path, monkeypatch):
    config = make(folder)
    series = load_series(config.forecast)
    whole, _ = fit(config, series, tmp_path / "whole", "titans", 0, 6, "x")
    calls = []

    def killed(values, *rest):
        calls.append(1)
        if len(calls) == 20:  # batches and validations together: somewhere in the middle
            raise KeyboardInterrupt
        return windows(values, *rest)

    monkeypatch.setattr("titans_genomics.tasks.forecast_fit.windows", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(config, series, tmp_path / "cut", "titans", 0, 6, "x")
    calls.clear()
    calls.extend([1] * 20)
    again, learned = fit(config, series, tmp_path / "cut", "titans", 0, 6, "x")
    assert learned["steps"] == 20
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_dlinear_may_train_longer(folder, tmp_path):
    config = make(folder, dlinear={"steps": 7, "batch_size": 2})
    series = load_series(config.forecast)
    steps = {name: fit(config, series, tmp_path / name, name, 0, 6, "x")[1]["steps"] for name in ("dlinear", "titans")}
    assert steps == {"dlinear": 7, "titans": 20}


def test_seeds_draw_other_weights(measured):
    _, out, _ = measured
    first, second = (load_forecaster(out / "titans" / f"seed{seed}" / "h6")[0] for seed in (0, 1))
    assert not torch.equal(first.head.weight, second.head.weight)


def test_what_was_measured_is_not_measured_again(measured, monkeypatch):
    config, out, whole = measured
    monkeypatch.setattr("titans_genomics.tasks.forecast.fit", lambda *_: pytest.fail("trained again"))
    assert forecast(config, out) == whole
    series = load_series(config.forecast)
    assert measure(config, series, out, "attention", 1) == forecast(config, out, "attention", 1)["1"]


def test_another_horizon_leaves_the_trained_ones(measured, folder):
    _, out, _ = measured
    config = make(folder, seeds=[0, 1], horizons=[6])
    before = (out / "dlinear" / "seed0" / "h6" / "model.safetensors").read_bytes()
    found = measure(config, load_series(config.forecast), out, "dlinear", 0)
    assert found["horizons"].keys() == {"6"}
    assert (out / "dlinear" / "seed0" / "h6" / "model.safetensors").read_bytes() == before
    forecast(make(folder, seeds=[0, 1]), out)  # as it was, for the tests after this one


# ---------------------------------------------------------------------------------------------- bad input


def test_names_of_the_run(folder):
    one, two = (0,), (0, 1)
    assert make(folder, seeds=two).fits("forecast") == {"titans": two, "attention": two, "last": one, "dlinear": two}
    assert list(make(folder, baselines=[]).fits("forecast")) == ["titans", "attention"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"model": "mamba"}, r"model 'mamba' is not one of this run's: titans, attention, last, dlinear"),
        ({"model": "titans", "seed": 7}, r"seed 7 is not one of this run's: 0"),
    ],
    ids=["model", "seed"],
)
def test_models_and_seeds_that_are_not_there(folder, tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        forecast(make(folder), tmp_path, **asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 48}, r"forecast.*patch 48 must be at most forecast\.lookback 24"),
        ({"stride": 7}, r"forecast\.stride 7 at most the patch"),
        ({"horizons": [0]}, r"forecast\.horizons"),
        ({"horizons": [6, 6]}, r"forecast\.horizons.*twice"),
        ({"seeds": [1, 1]}, r"forecast\.seeds.*twice"),
        ({"split": "random"}, r"forecast\.split"),
        ({"columns": ["a", "a"]}, r"forecast\.columns: a stands here twice"),
        ({"published": {"X": {"mse": 1, "mae": 1}}}, r"forecast\.published: means over horizons"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        make(folder, **changes)


def test_results_of_other_settings_are_measured_anew(folder, tmp_path):
    forecast(make(folder, baselines=["last"]), tmp_path, "last")
    path = tmp_path / "last" / "seed0" / "result.json"
    result = json.loads(path.read_text())
    again = forecast(make(folder, lookback=30), tmp_path, "last")["0"]
    assert json.loads(path.read_text()) == again
    assert again["identity"] != result["identity"]


def test_the_report_says_how_it_was_trained_and_measured(measured):
    _, _, whole = measured
    (shown,) = task_tables.forecast(whole, {"titans": "Titans"})
    assert shown.header[:3] == ["model", "parameters", "training"]
    best = [step for own in whole["models"]["titans"]["horizons"].values() for step in own["best_step"]]
    steps = whole["models"]["titans"]["horizons"]["6"]["steps"]
    apart = f"{min(best)}" if min(best) == max(best) else f"{min(best)}–{max(best)}"
    assert shown.rows[0][2] == f"{steps} ({apart})"
    assert [row[2] for row in shown.rows if row[0] == "last value"] == [""]
    assert {len(row) for row in shown.rows} == {len(shown.header)}
    assert "± the standard deviation" in shown.text
    assert "means of 2 seeds" in shown.text
    assert "filled" not in shown.text
    published = {"X": {"mse": 0.1, "mae": 0.2}}
    (shown,) = task_tables.forecast(whole | {"filled": 1234, "published": published}, {})
    assert "1,234 missing cells filled" in shown.text
    assert len(shown.rows[-1]) == len(shown.header)


def test_the_seed_of_the_run_draws_nothing(folder, tmp_path):
    found = []
    for seed in (1, 2):
        settings_ = settings(folder, horizons=[6], fit={"steps": 2}) | {"seed": seed}
        found.append(forecast(parse_config(settings_, "x"), tmp_path / str(seed), "titans", 0)["0"]["horizons"]["6"])
    assert found[0]["mse"] == found[1]["mse"]


def test_table_of_what_is_not_there_or_of_other_settings(folder, measured, tmp_path):
    config, out, whole = measured
    assert table(config, out) == whole == json.loads((out / "forecast.json").read_text())
    with pytest.raises(
        FileNotFoundError, match=r"titans/seed0/result\.json: .*`titans-genomics forecast --model titans --seed 0`"
    ):
        table(config, tmp_path)
    with pytest.raises(ValueError, match=r"titans/seed0/result\.json: measured with other settings .*--model titans"):
        table(make(folder, seeds=[0, 1], lookback=30), out)


def test_a_folder_without_a_forecaster(tmp_path, measured):
    _, out, _ = measured
    with pytest.raises(FileNotFoundError, match=r"run `titans-genomics forecast` first"):
        load_forecaster(tmp_path)
    source = out / "titans" / "seed0" / "h6"
    (tmp_path / "model.json").write_bytes((source / "model.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="does not hold a forecaster"):
        load_forecaster(tmp_path)


# ------------------------------------------------------------------------------------------------- plot


def test_plot_shows_every_model_and_column(measured):
    _, _, whole = measured
    drawn = forecasts(whole, {"titans": Look("Titans <LMM>", "#0f8b8d")})
    assert drawn.startswith("<svg ")
    for text in ("Titans &lt;LMM&gt;", "attention", "DLinear", "last value", "wave", "swing", "measured"):
        assert text in drawn
    assert f"{whole['models']['titans']['horizons']['6']['mse']:.3f}" in drawn
    with pytest.raises(ValueError, match="horizon 7 was not forecast; there are 6, 12"):
        forecasts(whole, {}, 7)


def test_plotted_truth_is_the_middle_window(measured):
    config, _, whole = measured
    series = load_series(config.forecast)
    first = 240 + 55 // 2
    assert whole["truth"]["6"]["origin"] == str(series.times[first])
    np.testing.assert_allclose(whole["truth"]["6"]["after"], series.values[first : first + 6].T, atol=1e-4)
    np.testing.assert_allclose(whole["truth"]["6"]["before"], series.values[first - 6 : first].T, atol=1e-4)
