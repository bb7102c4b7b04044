"""GenBank flat files, through Biopython."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from titans_genomics.data.records import Advance, Record

_REMEDY = "Download the record again with its sequence (GenBank (full)), or use FASTA"
# Beginnings of the Biopython warnings that mean that bases are missing.
_LOSSES = ("Premature end of file", "Expected sequence length")


def read_genbank(path: Path, advance: Advance) -> Iterator[Record]:
    """The records of a GenBank file (plain or gzip), named by accession and version (LOCUS name without).

    Raises
    ------
    ValueError
        Damaged file, record without sequence or of protein, two records of one name, sequence of another length
        than the LOCUS line says.
    """
    from Bio import SeqIO
    from Bio.Seq import UndefinedSequenceError

    seen: set[str] = set()
    with path.open("rb") as head:
        compressed = head.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rt") if compressed else path.open() as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Biopython also remarks on what does not touch the sequence
        for loss in _LOSSES:
            warnings.filterwarnings("error", message=loss)
        records = SeqIO.parse(handle, "genbank")
        while True:
            before = f"after {len(seen)} records"
            try:
                record = next(records, None)
                if record is None:
                    break
                sequence = bytes(record.seq)
            except UndefinedSequenceError:
                raise ValueError(f"{path}: record {record.id!r} has no sequence. {_REMEDY}") from None
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(f"{path}: gzip data cut short or damaged {before} ({error}). {_REMEDY}") from None
            except (ValueError, AssertionError, Warning, UnicodeDecodeError) as error:
                raise ValueError(f"{path}: not valid GenBank {before}: {error}. {_REMEDY}") from None
            if "protein" in str(record.annotations.get("molecule_type", "")).lower():
                raise ValueError(f"{path}: record {record.id!r} is a protein; nucleotide records are needed")
            name = record.id if record.id not in ("", ".", "<unknown id>") else record.name
            if name in seen:
                raise ValueError(f"{path}: two records are named {name!r}. Remove or rename one of them")
            seen.add(name)
            advance(len(sequence), None)
            yield Record(name, sequence)
    if not seen:
        raise ValueError(f"{path}: no GenBank record in the file")
