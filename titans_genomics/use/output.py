"""The file that a command writes: whether it can be, asked before the work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def check_out(out: str | Path, inputs: Iterable[str | Path | None] = (), such: str = "") -> Path:
    """Make the folder of a file that will be written.

    Parameters
    ----------
    out : path
    inputs : iterable of path
        Files that are read, none of which may be overwritten; None is passed over.
    such : str
        What its name could be, for messages.

    Raises
    ------
    ValueError
        It is a folder or one of the inputs, its folder cannot be made, or nothing may be written there.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; give the file to write{f', such as {out / such}' if such else ''}")
    for path in inputs:
        if path is not None and out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"{out}: is what is read, and would be overwritten; give another file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out}: its folder cannot be made ({error.strerror}); give another file to write") from None
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{out}: nothing may be written in its folder; give another file to write")
    return out
