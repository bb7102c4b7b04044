"""The folder of a token store: its files, and how a new one takes the place of an old one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FORMAT = 1
TOKENS, INDEX, SOFTMASK, MANIFEST = FILES = ("tokens.bin", "index.tsv", "softmask.npy", "manifest.json")
COLUMNS = ("source", "record", "start", "end", "strand", "split", "offset", "length", "aligned", "mapq")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A fresh sibling folder that takes the place of ``out`` when the block ends without an error.

    What a killed process left behind is cleared by the next one; a lock on the folder keeps two from writing at once.
    """
    out = Path(os.path.abspath(out))
    if out.exists():
        foreign = (
            sorted(p.name for p in out.iterdir() if p.name not in FILES and not p.name.startswith(".snakemake"))
            if out.is_dir()
            else [out.name]
        )
        if foreign:
            raise ValueError(
                f"{out}: holds something other than a token store ({foreign[0]}); it would be replaced. Choose another folder or remove it"
            )
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    if partial.exists() and not _unlocked(partial):
        raise ValueError(f"{out}: another process is writing this token store. Wait for it, or stop it")
    shutil.rmtree(partial, ignore_errors=True)
    if old.exists():  # killed between the two renames below: the old store goes back, or is no longer needed
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        for name in FILES:
            with (partial / name).open("rb") as handle:
                os.fsync(handle.fileno())
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def _unlocked(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, as on some clusters
        return True
    finally:
        os.close(handle)
