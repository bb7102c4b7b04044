from __future__ import annotations

import io

import pytest

from titans_genomics.progress import Progress, duration, quantity


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    return Clock()


def test_plain_lines_at_most_every_ten_seconds(clock):
    stream = io.StringIO()
    progress = Progress(1_000, "tokens", "training", stream, clock=clock)
    for second in range(1, 26):
        clock.now = second
        progress.update(20)
    progress.close()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "training: 200 of 1.00k tokens  20%  20 tokens/s  ETA 40 s",
        "training: 400 of 1.00k tokens  40%  20 tokens/s  ETA 30 s",
        "training: done, 500 tokens in 25 s (20 tokens/s)",
    ]


def test_a_terminal_gets_one_live_line(clock):
    stream = Terminal()
    with Progress(10, "steps", "training", stream, clock=clock) as progress:
        for second in (1, 2):
            clock.now = second
            progress.update(note=f"loss {second}")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.count("\r\x1b[K") == 3
    assert "1 of 10 steps  10%  1 steps/s  ETA 9.0 s  loss 1" in text


def test_the_share_of_a_file_gives_the_time_left(clock):
    stream = io.StringIO()
    progress = Progress(None, "bases", "reading x.fa.gz", stream, clock=clock)
    clock.now = 20
    progress.update(4_000_000, fraction=0.25)
    assert stream.getvalue() == "reading x.fa.gz: 4.00M bases  25%  200k bases/s  ETA 1:00\n"


def test_without_a_total_there_is_a_rate_but_no_time_left(clock):
    stream = io.StringIO()
    progress = Progress(None, "reads", "reading", stream, clock=clock)
    clock.now = 10
    progress.update(50)
    assert stream.getvalue() == "reading: 50 reads  5 reads/s\n"


def test_resumed_work_does_not_inflate_the_rate(clock):
    stream = io.StringIO()
    progress = Progress(1_000, "steps", "training", stream, clock=clock)
    progress.resume_at(500)
    clock.now = 10
    progress.update(100)
    assert stream.getvalue() == "training: 600 of 1.00k steps  60%  10 steps/s  ETA 40 s\n"


def test_an_error_is_not_reported_as_done(clock):
    stream = io.StringIO()

    def work():
        with Progress(10, "steps", "training", stream, clock=clock) as progress:
            clock.now = 2
            progress.update(4)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert stream.getvalue() == "training: stopped after 4 steps in 2.0 s (2 steps/s)\n"


def test_a_closed_stream_does_not_end_the_work():
    stream = io.StringIO()
    with Progress(1, "steps", "training", stream, interval=0) as progress:
        stream.close()
        progress.update()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.5, "0.5"),
        (999, "999"),
        (999.7, "1.00k"),
        (1_234, "1.23k"),
        (45_600, "45.6k"),
        (4_639_675, "4.64M"),
        (3.1e9, "3.10G"),
    ],
)
def test_quantities(number, text):
    assert quantity(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.3, "12 s"), (59.7, "1:00"), (185, "3:05"), (7_385, "2:03:05")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
