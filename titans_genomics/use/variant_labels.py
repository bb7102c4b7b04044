"""Labels of variants: an INFO field of the VCF, or a table beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import pysam

from titans_genomics.data.regions import without_convention


def label_of(record: pysam.VariantRecord, key: str, place: int) -> str | None:
    """The label of an alternative allele in INFO: its own, or that of all; of a flag 1 where it stands and else 0."""
    field = record.header.info[key]
    if field.type == "Flag":
        return str(int(key in record.info))
    found = record.info.get(key)
    if isinstance(found, tuple):
        if field.number == "R":
            found = found[place + 1]  # the first is that of REF
        else:
            found = found[place] if len(found) == len(record.alts) else found[0]
    return None if found is None else f"{found:g}" if isinstance(found, float) else str(found)


def locus(contig: str, pos: int, ref: str, alt: str) -> tuple[str, int, str, str]:
    """A variant's name, whatever the convention of contig names and the case of letters."""
    return without_convention(contig), pos, ref.upper(), alt.upper()


def label_table(path: Path, label: str) -> dict[tuple[str, int, str, str], str]:
    """Label by contig, position, REF and ALT."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of labels")
    found: dict[tuple[str, int, str, str], str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t")
            for column in ("chrom", "pos", "ref", "alt", label):
                if column not in (rows.fieldnames or ()):
                    raise ValueError(
                        f"no column {column!r} ({', '.join(rows.fieldnames or ())}). The columns are chrom, pos, ref, alt and the label, with tabs between"
                    )
            for row in rows:
                if None in row.values() or not row["pos"].isdecimal():
                    raise ValueError(
                        f"row {rows.line_num - 1}: too few columns, or pos is not a whole number. Correct or remove it"
                    )
                key = locus(row["chrom"], int(row["pos"]), row["ref"], row["alt"])
                if found.setdefault(key, row[label]) != row[label]:
                    raise ValueError(
                        f"row {rows.line_num - 1}: {row['chrom']}:{row['pos']} {row['ref']} {row['alt']} has two labels, {found[key]} and {row[label]}. Remove one"
                    )
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text (UTF-8). Give a table of tab-separated columns, not compressed") from None
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return found
