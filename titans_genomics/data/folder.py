"""The folder of a token store: its files, and how a new one takes the place of an old one.

manifest.json           config, versions, checksums and counts; its presence says that the store is whole
index.parquet           a row per segment: where it came from, its split, where its tokens are
places.npy              the numbers of the index that reading needs, memory-mapped
tokenizer.json          the tokenizer, as Hugging Face tools load it (tokenizer_config.json beside it)
shards/NAME.*           the base layer of each source (module ``shard``), and its tokens when a token is not a base
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from titans_genomics.data.shard import FACTS, SUFFIXES

FORMAT = 2
MANIFEST, INDEX, PLACES, SHARDS = "manifest.json", "index.parquet", "places.npy", "shards"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
FILES = (MANIFEST, INDEX, PLACES, TOKENIZER, TOKENIZER_CONFIG)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""
_OLDER = ("tokens.bin", "index.tsv", "softmask.npy")  # format 1


@contextmanager
def writing(out: Path) -> Iterator[tuple[Path, Path | None]]:
    """A hidden sibling folder that takes the place of ``out`` when the block ends without an error.

    Yields the folder to write, and the store that is there already, if any. What a killed process left in the hidden
    folder is still there for the next one, which decides what of it is whole; a failed one leaves whole shards only.
    Where ``out`` is a symbolic link, the folder that it names is replaced, and the hidden one lies beside that. A lock
    keeps two from writing at once.

    Raises
    ------
    ValueError
        ``out`` holds something else, or another process is writing it.
    """
    out = Path(os.path.realpath(out))
    if out.exists():
        known = {*FILES, *_OLDER, SHARDS}
        foreign = (
            sorted(p.name for p in out.iterdir() if p.name not in known and not p.name.startswith(".snakemake"))
            if out.is_dir()
            else [out.name]
        )
        if foreign:
            raise ValueError(
                f"{out}: holds something other than a token store ({foreign[0]}); it would be replaced. Choose another folder or remove it"
            )
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise OSError(
            f"{out}: the token store cannot be written there ({error.strerror}). Choose another folder, or mend its permissions"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another process is writing this token store. Wait for it, or stop it") from None
        except OSError:  # a file system without locks, as on some clusters
            pass
        if old.exists():  # killed between the two renames below: the old store goes back, or is no longer needed
            if out.exists():
                _remove(old)
            else:
                old.rename(out)
        (partial / SHARDS).mkdir(exist_ok=True)
        try:
            yield partial, out if (out / MANIFEST).is_file() else None
        except BaseException:
            _keep_whole_shards(partial)
            raise
        with ThreadPoolExecutor(8) as pool:  # the disk takes as long for one as for several
            list(pool.map(_to_disk, [partial / name for name in FILES] + sorted((partial / SHARDS).iterdir())))
        if out.exists():
            out.rename(old)
        partial.rename(out)
        _remove(old)
    finally:
        os.close(lock)


def _to_disk(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _keep_whole_shards(partial: Path) -> None:
    """Remove all but the shards that the next attempt can go on from, and the folder when there are none."""
    shards = partial / SHARDS
    whole = {facts.name.removesuffix(FACTS) + suffix for facts in shards.glob("*" + FACTS) for suffix in SUFFIXES}
    if not whole:
        _remove(partial)
        return
    with suppress(OSError):  # the error that led here says more
        for path in [*partial.iterdir(), *shards.iterdir()]:
            if path != shards and path.name not in whole:
                path.unlink()


def _remove(folder: Path) -> None:
    """Remove a folder as far as that is possible; of a symbolic link only itself."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
