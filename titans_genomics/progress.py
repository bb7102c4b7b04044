"""Progress of long work: how much is done, how fast, and how long it will still take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO


class Progress:
    """A progress display with rate and time left.

    On a terminal it is one live line; elsewhere (a log file, a cluster job) plain lines, at most one every
    ``interval`` seconds. A last line says what was done in how much time.

    Parameters
    ----------
    total
        Amount of work in ``unit``; None when it is not known beforehand.
    unit
        What is counted, in the plural: ``"bases"``, ``"tokens"``, ``"steps"``.
    what
        What is being done: ``"reading ecoli.fa.gz"``.
    stream
        Where to write; default: standard error.
    interval
        Least seconds between two lines; default 0.1 on a terminal, 10 elsewhere.
    clock
        A monotonic clock in seconds.

    Examples
    --------
    >>> with Progress(1000, "bases", "counting") as progress:
    ...     progress.update(1000)
    """

    def __init__(
        self,
        total: float | None,
        unit: str,
        what: str,
        stream: TextIO | None = None,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.what = total, unit, what
        self._stream = sys.stderr if stream is None else stream
        self._live = bool(getattr(self._stream, "isatty", lambda: False)())
        self._interval = (0.1 if self._live else 10.0) if interval is None else interval
        self._clock = clock
        self._start = self._shown = clock()
        self._fraction: float | None = None
        self._note = ""
        self._closed = False
        self.done: float = 0
        self._done_at_start: float = 0

    def resume_at(self, done: float) -> None:
        """Start counting at ``done`` (work of an earlier process); the rate counts this process only."""
        self.done = self._done_at_start = done

    def update(self, n: float = 1, *, fraction: float | None = None, note: str | None = None) -> None:
        """Count ``n`` more units.

        ``fraction`` (0 to 1) says how much of the whole is done when that is better known than ``total``, such as
        the share of a compressed file that has been read; ``note`` is shown at the end of the line ("loss 1.93").
        """
        self.done += n
        if fraction is not None:
            self._fraction = fraction
        if note is not None:
            self._note = note
        now = self._clock()
        if now - self._shown >= self._interval:
            self._shown = now
            self._write(self._line(now))

    def close(self, failed: bool = False) -> None:
        """Write the last line. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        seconds = self._clock() - self._start
        rate = f" ({quantity((self.done - self._done_at_start) / seconds)} {self.unit}/s)" if seconds > 0 else ""
        state = "stopped after" if failed else "done,"
        note = f"  {self._note}" if self._note else ""
        self._write(
            f"{self.what}: {state} {quantity(self.done)} {self.unit} in {duration(seconds)}{rate}{note}", last=True
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def _line(self, now: float) -> str:
        seconds = now - self._start
        share, since = self._fraction, 0.0
        if share is None and self.total:
            share, since = min(self.done / self.total, 1.0), self._done_at_start / self.total
        parts = [f"{self.what}: {quantity(self.done)}"]
        if self.total:
            parts[0] += f" of {quantity(self.total)}"
        parts[0] += f" {self.unit}"
        if share is not None:
            parts.append(f"{100 * share:.0f}%")
        if seconds > 0:
            parts.append(f"{quantity((self.done - self._done_at_start) / seconds)} {self.unit}/s")
        if share is not None and share > since:
            parts.append(f"ETA {duration(seconds * (1 - share) / (share - since))}")
        if self._note:
            parts.append(self._note)
        return "  ".join(parts)

    def _write(self, text: str, last: bool = False) -> None:
        try:
            self._stream.write(f"\r\x1b[K{text}" + ("\n" if last else "") if self._live else f"{text}\n")
            self._stream.flush()
        except (OSError, ValueError):  # a closed terminal or pipe must not end hours of work
            pass


def quantity(number: float) -> str:
    """A count with three digits and a unit prefix: 950, 1.23k, 4.64M, 3.10G."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            scaled = number / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}{prefix}"
    return f"{number:.0f}" if number == int(number) or abs(number) >= 100 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """Seconds as 0.4 s, 12 s, 3:05 or 2:03:05."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
