"""VCF that is written: the header and lines of another, with more INFO fields; bgzipped and indexed, whole or not at all."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pysam

from titans_genomics.data.bgzf import BGZF_END
from titans_genomics.use.vcf import Checked, Genome

_TBI_LONGEST = 1 << 29  # bases of a contig that a .tbi index reaches
_MEMBER = 0xFF00  # bytes of a BGZF member: compressed it fits into 64 KiB, whatever they are


@contextmanager
def indexed_vcf(path: Path, header: str, longest: int) -> Iterator[Callable[[str], None]]:
    """A bgzipped VCF, which appears with its index when the block succeeds, and not at all when it fails.

    Gives a function that writes one line. ``longest``: bases of the longest contig, beyond the reach of a .tbi index
    the index is a .csi.
    """
    suffix = ".csi" if longest >= _TBI_LONGEST else ".tbi"
    temporary = path.with_name(f".{path.name}.tmp")
    index = temporary.with_name(temporary.name + suffix)
    waiting = bytearray(header.encode(errors="surrogateescape"))
    verbosity = pysam.set_verbosity(0)  # htslib would print beside what we raise
    try:
        with temporary.open("wb") as file:

            def write(line: str) -> None:
                waiting.extend(line.encode(errors="surrogateescape") + b"\n")
                while len(waiting) >= _MEMBER:
                    file.write(_member(bytes(waiting[:_MEMBER])))
                    del waiting[:_MEMBER]

            yield write
            for start in range(0, len(waiting), _MEMBER):
                file.write(_member(bytes(waiting[start : start + _MEMBER])))
            file.write(BGZF_END)
        pysam.tabix_index(
            str(temporary), preset="vcf", force=True, keep_original=True, csi=suffix == ".csi", index=str(index)
        )
        for old in (".tbi", ".csi"):  # of an earlier file: no index is better than a wrong one
            path.with_name(path.name + old).unlink(missing_ok=True)
        os.replace(temporary, path)
        os.replace(index, path.with_name(path.name + suffix))
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}): is the disk full?") from error
    finally:
        pysam.set_verbosity(verbosity)
        temporary.unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def _member(data: bytes) -> bytes:
    """Bytes as a BGZF member (gzip with its length in an extra field; the SAM specification, section 4.1)."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    head = BGZF_END[:16] + struct.pack("<H", len(packed) + 25)
    return head + packed + struct.pack("<II", zlib.crc32(data), len(data))


def annotated_header(checked: Checked, genome: Genome, own: Sequence[str], keys: Sequence[str]) -> str:
    """The text of a header with ``own`` lines before the column names, in place of those of the INFO and FILTER ``keys``.

    What records use and the header did not declare is declared; contigs without a length get it. Raises ValueError where
    it is not UTF-8.
    """
    try:
        text = str(checked.header)
    except UnicodeDecodeError:
        raise ValueError("the header of the VCF is not UTF-8. Convert it: iconv -f latin1 -t utf-8") from None
    old = ("##titans_genomics=", *(f"##{kind}=<ID={key}," for kind in ("INFO", "FILTER") for key in keys))
    contigs = {
        f"##contig=<ID={name}>": f"##contig=<ID={name},length={len(genome.contigs[own_name])}>"
        for name, own_name in checked.contigs.items()
    }
    lines = [contigs.get(line, line) for line in text.splitlines() if line and not line.startswith(old)]
    return "\n".join([*lines[:-1], *own, lines[-1]]) + "\n"


def annotated_line(line: str, info: Mapping[str, str], keys: Sequence[str], skipped: bool) -> str:
    """The line of a record with ``info`` in place of the INFO ``keys``; nothing else changes but FILTER, where it is ``skipped``."""
    fields = line.split("\t")
    filters = [name for name in fields[6].split(";") if name not in ("TITANS_SKIPPED", ".", *["PASS"] * skipped)]
    fields[6] = ";".join(filters + ["TITANS_SKIPPED"] * skipped) or "."
    kept = [entry for entry in fields[7].split(";") if entry != "." and entry.partition("=")[0] not in keys]
    fields[7] = ";".join(kept + [f"{key}={value}" for key, value in info.items()]) or "."
    return "\t".join(fields)
