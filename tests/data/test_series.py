"""Series for forecasting: what is read, how it is split and scaled, and what is said of files that are no even series."""

from __future__ import annotations

import csv
import datetime
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from serving import http_site

from titans_genomics.config import ForecastConfig, load_config
from titans_genomics.data.series import load_series

START = datetime.datetime(2020, 1, 1)
ROOT = Path(__file__).parents[2]
HOUR = datetime.timedelta(hours=1)


def hours(count: int, step: datetime.timedelta = HOUR) -> list[str]:
    return [str(START + i * step) for i in range(count)]


def table(
    path: Path, steps: int = 100, columns: int = 2, dates: list[str] | None = None, seed: int = 3
) -> list[list[str]]:
    """Write a good CSV and return its rows, header included."""
    values = np.random.default_rng(seed).normal(5, 2, (steps, columns)).round(3)
    rows = [["date", *(f"c{i}" for i in range(columns))]]
    rows += [[date, *map(str, row)] for date, row in zip(dates or hours(steps), values.tolist(), strict=True)]
    write(path, rows)
    return rows


def write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


def settings(path: Path, **changes) -> ForecastConfig:
    return ForecastConfig(path=path, **{"lookback": 10, "horizons": (5,), "patch": 4, "stride": 4} | changes)


# ---------------------------------------------------------------------------------------- what is read


def test_values_scaled_by_training_steps_alone(tmp_path):
    rows = table(tmp_path / "a.csv")
    raw = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]])
    series = load_series(settings(tmp_path / "a.csv"))
    mean, deviation = raw[:70].mean(0), np.sqrt(((raw[:70] - raw[:70].mean(0)) ** 2).mean(0))
    np.testing.assert_allclose(series.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(series.deviation, deviation, rtol=1e-12)
    np.testing.assert_allclose(series.values, (raw - mean) / deviation, rtol=1e-5, atol=1e-6)
    for row in rows[71:]:  # nothing behind the training steps has a say in the scaling
        row[1] = str(float(row[1]) * 1000)
    write(tmp_path / "a.csv", rows)
    np.testing.assert_array_equal(load_series(settings(tmp_path / "a.csv")).values[:70], series.values[:70])


def test_columns_in_the_order_asked_and_gzip(tmp_path):
    table(tmp_path / "a.csv", columns=3)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    plain = load_series(settings(tmp_path / "a.csv"))
    chosen = load_series(settings(tmp_path / "a.csv.gz", columns=("c2", "c0")))
    assert plain.columns == ("c0", "c1", "c2")
    assert chosen.columns == ("c2", "c0")
    np.testing.assert_array_equal(chosen.values, plain.values[:, [2, 0]])


def test_byte_order_mark_and_spaces_around_cells(tmp_path):
    rows = table(tmp_path / "a.csv")
    plain = load_series(settings(tmp_path / "a.csv"))
    text = "\n".join(",".join(f" {cell} " if i else cell for cell in row) for i, row in enumerate(rows))
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    np.testing.assert_array_equal(load_series(settings(tmp_path / "b.csv")).values, plain.values)


def test_text_columns_are_no_fault_when_others_are_asked(tmp_path):
    rows = table(tmp_path / "a.csv")
    write(tmp_path / "a.csv", [[*row, "station" if i == 0 else "Greensboro, NC"] for i, row in enumerate(rows)])
    assert load_series(settings(tmp_path / "a.csv", columns=("c1",))).values.shape == (100, 1)


@pytest.mark.parametrize(
    ("form", "step"),
    [
        ("%Y-%m-%d %H:%M:%S", datetime.timedelta(minutes=15)),
        ("%Y-%m-%dT%H:%M", HOUR),
        ("%Y-%m-%d", datetime.timedelta(days=7)),
        ("%Y/%m/%d %H:%M", HOUR),
        ("%d.%m.%Y %H:%M:%S", HOUR),
    ],
    ids=lambda value: str(value),
)
def test_forms_of_time(tmp_path, form, step):
    dates = [(START + i * step).strftime(form) for i in range(60)]
    table(tmp_path / "a.csv", 60, dates=dates)
    times = load_series(settings(tmp_path / "a.csv")).times
    assert [time.item() for time in times] == [START + i * step for i in range(60)]


def test_times_without_leading_zeros(tmp_path):
    dates = [(START + i * HOUR).strftime("%Y/%-m/%-d %-H:%M") for i in range(60)]
    table(tmp_path / "a.csv", 60, dates=dates)
    assert load_series(settings(tmp_path / "a.csv")).times[-1].item() == START + 59 * HOUR


def test_months_are_even(tmp_path):
    table(tmp_path / "a.csv", 60, dates=[f"{2000 + i // 12}-{1 + i % 12:02d}-01" for i in range(60)])
    assert str(load_series(settings(tmp_path / "a.csv")).times[-1])[:10] == "2004-12-01"


def test_whole_numbers_as_times(tmp_path):
    table(tmp_path / "a.csv", 60, dates=[str(7 * i) for i in range(60)])
    assert load_series(settings(tmp_path / "a.csv")).times.tolist() == [7 * i for i in range(60)]


# ---------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("steps", [100, 101, 107, 8760])
def test_shares_and_windows_counted_by_hand(tmp_path, steps):
    table(tmp_path / "a.csv", steps)
    horizon, lookback = 5, 10
    splits = load_series(settings(tmp_path / "a.csv")).splits
    train, test = int(0.7 * steps), int(0.2 * steps)
    ends = {"train": (0, train), "validation": (train, steps - test), "test": (steps - test, steps)}
    for name, (start, stop) in ends.items():
        origins = [  # a forecast lies in its split, what it is made from in the series
            first for first in range(steps) if first >= lookback and first >= start and first + horizon <= stop
        ]
        part = splits[name]
        assert [part.start + i for i in range(part.windows(horizon))] == origins


@pytest.mark.parametrize(("hourly", "ends"), [(1, (8640, 11520, 14400)), (4, (34560, 46080, 57600))], ids=["h", "m"])
def test_months_of_ett(tmp_path, hourly, ends):
    steps = 20 * 30 * 24 * hourly + 50
    table(tmp_path / "a.csv", steps, 1, hours(steps, HOUR / hourly))
    splits = load_series(settings(tmp_path / "a.csv", split="ett")).splits
    assert (splits["train"].stop, splits["validation"].stop, splits["test"].stop) == ends
    assert splits["test"].windows(720) == 2880 * hourly - 719


def test_the_shipped_weather():
    config = load_config(ROOT / "configs" / "forecast_weather.yaml").forecast
    series = load_series(config.model_copy(update={"path": ROOT / config.path}))
    assert series.values.shape == (8760, 8)
    assert str(series.times[0]) == "1990-01-01T01:00:00"
    assert {name: part.windows(96) for name, part in series.splits.items()} == {
        "train": 6132 - 336 - 95,
        "validation": 876 - 95,
        "test": 1752 - 95,
    }


# ------------------------------------------------------------------------------------------------ gaps


def test_gaps_interpolated_between_their_neighbours(tmp_path):
    rows = table(tmp_path / "a.csv")
    raw = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]])
    rows[51][1] = ""
    rows[100][2] = "NA"
    del rows[31:33]  # steps 30 and 31
    write(tmp_path / "a.csv", rows)
    series = load_series(settings(tmp_path / "a.csv", gaps="interpolate"))
    found = series.values * series.deviation + series.mean
    assert series.filled == 2 * 2 + 2
    assert len(series.times) == 100
    np.testing.assert_allclose(found[30], raw[29] + (raw[32] - raw[29]) / 3, rtol=1e-5)
    np.testing.assert_allclose(found[31], raw[29] + (raw[32] - raw[29]) * 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(found[50, 0], (raw[49, 0] + raw[51, 0]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found[99, 1], raw[98, 1], rtol=1e-5)
    untouched = np.ones((100, 2), bool)
    untouched[[30, 31, 50], :] = untouched[99, 1] = False
    np.testing.assert_allclose(found[untouched], raw[untouched], rtol=1e-4)


# ------------------------------------------------------------------------------------------- bad input


def swapped(rows):
    rows[10], rows[11] = rows[11], rows[10]


def cell(row: int, column: int, text: str):
    def change(rows):
        rows[row][column] = text

    change.__name__ = f"cell {row} {column} {text}"
    return change


def times(factor: float):
    def change(rows):
        for row in rows[1:]:
            row[2] = repr(float(row[2]) * factor)

    return change


BAD = {
    "gap": (lambda rows: rows.pop(41), r"between row 40 .* and row 41 .* 1 rows are missing.*forecast\.gaps"),
    "two gaps": (lambda rows: (rows.pop(80), rows.pop(41)), r"between row 40 .*there are 2 such gaps"),
    "date": (cell(17, 0, "2020-13-01 00:00:00"), r"row 17, column 'date': '2020-13-01 00:00:00' is not a time"),
    "no such day": (cell(17, 0, "2020-02-30 00:00:00"), r"row 17, column 'date': '2020-02-30 00:00:00' is not a time"),
    "first date": (cell(1, 0, "yesterday"), r"row 1, column 'date': 'yesterday' is not a time such as"),
    "empty date": (cell(30, 0, ""), r"row 30, column 'date': '' is not a time"),
    "twice": (cell(21, 0, hours(20)[19]), r"row 21: the time 2020-01-01 19:00:00 stands twice"),
    "unsorted": (swapped, r"row 11: the time .* comes after .*\. Sort"),
    "uneven": (cell(33, 0, "2020-01-02 08:10:00"), r"row 33: .* not evenly spaced.*3,600 seconds"),
    "missing": (cell(12, 2, ""), r"row 12, column 'c1': the value is missing.*forecast\.gaps"),
    "NAN": (cell(12, 2, "NAN"), r"row 12, column 'c1': the value is missing.*forecast\.gaps"),
    "-nan": (cell(12, 2, "-nan"), r"row 12, column 'c1': the value is missing.*forecast\.gaps"),
    "nan(1)": (cell(12, 2, "nan(1)"), r"row 12, column 'c1': the value is missing.*forecast\.gaps"),
    "tiny": (times(1e-200), r"column 'c1': its values, from .*e-20.*change its unit"),
    "huge": (times(1e200), r"column 'c1': its values, from .*e\+20.*change its unit"),
    "at the ends of float64": (
        lambda rows: (times(1e307)(rows), times(-1)(rows[:40])),
        r"column 'c1': .*change its unit",
    ),
    "far off": (cell(95, 2, "1e60"), r"column 'c1': its values, from .* to 1e\+60.*correct those far off"),
    "word": (cell(60, 1, "high"), r"row 60, column 'c0': 'high' is not a number"),
    "comma for point": (cell(60, 1, "1,5"), r"row 60, column 'c0': '1,5' is not a number"),
    "infinite": (cell(60, 1, "inf"), r"row 60, column 'c0': 'inf' is not finite"),
    "short row": (lambda rows: rows[44].pop(), r"row 44 has 2 cells, the header 3"),
    "two columns of one name": (cell(0, 2, "c0"), r"names column 'c0' twice"),
    "no time": (cell(0, 0, "when"), r"no column 'date' \(forecast\.time\); it has when, c0, c1"),
    "constant": (
        lambda rows: [row.__setitem__(2, "7") for row in rows[1:]],
        r"column 'c1' is constant .*forecast\.columns",
    ),
    "constant in training": (lambda rows: [row.__setitem__(2, "7") for row in rows[1:71]], r"column 'c1' is constant"),
    "no value": (lambda rows: [row.__setitem__(2, "") for row in rows[1:]], r"column 'c1' has no value at all"),
    "no column": (lambda rows: [row.__delitem__(slice(1, None)) for row in rows], r"nothing to forecast"),
    "no rows": (lambda rows: rows.__delitem__(slice(1, None)), r"has 0 rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_are_named(tmp_path, name):
    path = tmp_path / "bad.csv"
    rows = table(path)
    change, message = BAD[name]
    change(rows)
    write(path, rows)
    with pytest.raises(ValueError, match=message) as caught:
        load_series(settings(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizons": (5, 11)}, r"horizon of 11 steps is longer than the validation split .* longest .* is 10"),
        ({"horizons": (21,)}, r"horizon of 21 steps is longer than the validation split"),
        (
            {"lookback": 66},
            r"horizon of 5 steps is longer than the train split \(4 of 100 steps behind a lookback of 66\)",
        ),
        ({"lookback": 90}, r"train split .*lower forecast\.lookback"),
        ({"split": "ett"}, r"has 100 steps, forecast\.split ett needs 14,400"),
        ({"columns": ("c0", "c9")}, r"no column 'c9' \(forecast\.columns\)"),
        ({"columns": ("date", "c0")}, r"'date' is the column of the times"),
        ({"sha256": "0" * 64}, r"SHA-256 checksum is .*forecast\.sha256"),
    ],
    ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit(tmp_path, changes, message):
    table(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=message):
        load_series(settings(tmp_path / "a.csv", **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (gzip.compress(b"date,c0\n" * 100)[:-9], "damaged gzip"),
        (b"date,c0\n2020-01-01,1\xff\n" * 3, "not a CSV table"),
        ("date,Wärme\n2020-01-01,1\n".encode("latin-1"), r"the header is not UTF-8 \(byte 7\).*save it as UTF-8"),
        ("date,c0\n2020-01-01,1\n".encode("utf-16"), "is UTF-16.*save it as UTF-8"),
        ("date,c0\n2020-01-01,1\n".encode("utf-16-be"), "is UTF-16.*save it as UTF-8"),
        (b"date;c0\n2020-01-01;1,5\n", "between semicolons.*save it with commas"),
        (b"date\tc0\r\n2020-01-01\t1\r\n", "between tabs.*save it with commas"),
    ],
    ids=["empty", "blank", "cut gzip", "no UTF-8", "header", "UTF-16", "no mark", "semicolons", "tabs"],
)
def test_no_table(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_series(settings(tmp_path / "a.csv"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.csv") in str(caught.value)


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file \(forecast\.path.*forecast\.url"):
        load_series(settings(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="is a folder"):
        load_series(settings(tmp_path))


# -------------------------------------------------------------------------------------------- download


def test_download_once_and_checked(tmp_path):
    table(tmp_path / "a.csv")
    content = (tmp_path / "a.csv").read_bytes()
    with http_site() as site:
        site.files["/a.csv"] = content
        asked = {"url": f"{site.base}/a.csv", "sha256": hashlib.sha256(content).hexdigest()}
        first = load_series(settings(tmp_path / "down" / "a.csv", **asked))
        again = load_series(settings(tmp_path / "down" / "a.csv", **asked))
        assert len(site.asked) == 1
    assert first.sha256 == again.sha256 == asked["sha256"]


def test_without_network_it_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("titans_genomics.data.remote.PAUSE", 0)
    path = tmp_path / "down" / "a.csv"
    with pytest.raises(OSError, match=f"forecast.url.*put the file at {path}"):
        load_series(settings(path, url="http://127.0.0.1:9/a.csv"))
