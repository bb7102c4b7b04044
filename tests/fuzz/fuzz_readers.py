"""Coverage-guided fuzzing of the readers, with atheris (Linux).

    python tests/fuzz/fuzz_readers.py FOLDER [--kind KIND] [-max_total_time=60] [other options of libFuzzer]

FOLDER gets a good tiny file of every format to begin with, and whatever reaches code that nothing before it reached; it may be
used again. A fault ends the run with a traceback and the input in a file (-artifact_prefix says where). By default the
first byte of an input says which format the rest is of; with --kind all of it is of that one.

Python code is instrumented, kernels are compiled as ever. With NUMBA_DISABLE_JIT=1 the kernels run as Python too, slowly
but with their branches seen.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import atheris
import numba

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

import bad_files as files
import naive
from Bio.GenBank import Scanner

from titans_genomics import sheet
from titans_genomics.data import (
    bam,
    bam_records,
    bgzf,
    detect,
    fasta,
    fastq,
    flatfile,
    iupac,
    letters,
    readers,
    reads,
    regions,
    text,
    twobit,
)

KINDS = ("fasta", "fastq", "bam", "2bit", "genbank", "embl", "bed", "gff", "sheet", "text", "gzip", "bgzf")
MODULES = (
    *(bam, bam_records, bgzf, detect, fasta, fastq, flatfile, iupac, letters, readers, reads, regions, text, twobit),
    *(sheet, Scanner),
)
MOST = 4096  # bytes of an input


def instrument(module: types.ModuleType) -> None:
    """Let atheris see the branches of what a module defines; compiled kernels are no functions, and left alone."""
    owners: list[Any] = [module, *(one for one in vars(module).values() if isinstance(one, type))]
    for owner in owners:
        for found in list(vars(owner).values()):
            function = found.fget if isinstance(found, property) else found
            if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(inspect.unwrap(function))


def seed(folder: Path, kind: str | None) -> None:
    """The good files to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(KINDS):
        if kind in (None, each):
            (folder / f"good.{each}").write_bytes(files.good(each) if kind else bytes([number]) + files.good(each))


def check(path: Path, kind: str, content: bytes) -> None:
    """Fails when a reader does anything but read what is there or refuse it in one line."""
    path.write_bytes(files.packed(kind, content, 20 + len(content) % 500))
    bgzf.BLOCK = 1 << 22 if len(content) % 2 or kind in ("bam", "bgzf") else 200  # records go over the ends of blocks
    try:
        found = files.read(path, kind)
    except (ValueError, OSError) as error:
        said = str(error)
        assert said.startswith(str(path)), said
        assert len(said.splitlines()) == 1, said
        return
    values = [codes.tolist() for codes in found.values()]
    if kind == "fasta":
        records = naive.fasta(content)
        assert records is None or values == list(records.values())
    elif kind == "fastq":
        wanted = naive.fastq(content)
        assert wanted is None or values == [codes for codes in wanted if codes]


def main() -> None:
    arguments = sys.argv[1:]
    kind = None
    if "--kind" in arguments:
        at = arguments.index("--kind")
        kind = arguments[at + 1]
        del arguments[at : at + 2]
    folder = Path(arguments[0])
    seed(folder, kind)
    if numba.config.DISABLE_JIT:
        letters.plain_run = lambda *_: 0  # written for the compiler alone; the loop behind it reads the same letters
        warnings.simplefilter("ignore", RuntimeWarning)  # integers that overflow, as they should in hashes
    for module in MODULES:
        instrument(module)
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    (place / "a.fa").write_bytes(files.fasta())

    def once(content: bytes) -> None:
        if kind is not None:
            check(place / "x", kind, content)
        elif content:
            check(place / "x", KINDS[content[0] % len(KINDS)], content[1:])

    atheris.Setup([sys.argv[0], f"-max_len={MOST}", "-timeout=60", "-rss_limit_mb=8192", *arguments], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
