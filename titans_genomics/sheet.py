"""Sources as people name them, to plain entries of ``data.sources``: sample sheets, patterns, URLs, accessions.

The config imports this module, and with it the Snakefile and ``--help``: standard library only.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from titans_genomics.sheet_rows import Columns, read_rows

COLUMNS = (
    "path",
    "kind",
    "name",
    "species",
    "assembly",
    "column",
    "weight",
    "reference",
    "regions",
    "exclude",
    "split",
    "md5",
)
"""The columns of a sample sheet: keys of ``data.sources[]``."""

_SHEET = Columns(
    COLUMNS,
    "path",
    "a sequence file",
    "data.sources",
    "A sequence file stands in a list: `sources: [{{path: {sheet}}}]`",
)

SCHEMES = ("http", "https", "ftp", "s3", "hf")

HUB_LIST = ".hub.json"
"""Ending of the list of a Hub dataset's files, which stands for them all."""

_ACCESSION = re.compile(r"GC[AF]_\d{9}(\.\d+)?")
_INDEXES = (".fai", ".gzi", ".bai", ".csi", ".crai", ".tbi")
_ENDINGS = re.compile(
    r"(\.(gz|bgz|bgzip|fa|fna|fas|fasta|ffn|frn|fq|fastq|gb|gbk|gbff|genbank|embl|2bit|bam|cram|txt|jsonl|ndjson|parquet))+$",
    re.IGNORECASE,
)


def expand_sources(sources: Any, downloads: Path, origins: list[str] | None = None) -> Any:
    """The entries of ``data.sources``, one per file.

    Paths, those in a sample sheet too, stay as they are written: relative to the working directory. Expanding what
    was expanded before changes nothing, so that a stage can read a dumped config again.

    Parameters
    ----------
    sources
        A list of entries (dicts), or the path of a sample sheet: TSV, CSV or semicolons (told from the header line),
        columns `COLUMNS` in any order, of which only ``path`` must be there. An empty cell is a key not given; blank
        lines and lines that begin with # are skipped. Anything else is given back as it is.
    downloads
        Folder of the local copies of URLs and accessions.
    origins
        Filled with where each entry was written, of which only the name of the key or column lacks
        (``SHEET: line 7, column `` or ``sources.3.``); all files that a pattern stands for share it.

    Returns
    -------
    list of dict
        ``path`` of an entry may be

        * a file. It wins over the readings below when there is one of that name;
        * a pattern (``genomes/*.fa.gz``, ``**`` for any depth): one entry per file, sorted, index files (.fai, .bai)
          left out. All other keys are shared. A name that two files would have by default is made longer;
        * a URL (http, https, ftp, s3), kept as ``url``; ``path`` becomes ``downloads/FILE``. When two URLs end in the
          same file name, both local names carry a hash of the URL;
        * an NCBI assembly accession: ``url`` becomes ``ncbi:ACCESSION``, which is also the name by default;
        * a dataset of the Hugging Face Hub, ``hf://OWNER/NAME`` (`hub_address`): ``path`` becomes the list of its files.

    Raises
    ------
    ValueError
        Naming the sheet, line and column, or the number of the entry, and the remedy.
    """
    if isinstance(sources, (str, Path)):
        entries = [(where, _weighed(where, entry)) for where, entry in read_rows(Path(sources), _SHEET)]
    elif isinstance(sources, (list, tuple)):
        entries = [(f"sources.{i}.", entry) for i, entry in enumerate(sources)]
    else:
        return sources
    origins = [] if origins is None else origins
    claims: dict[str, set[str]] = defaultdict(set)
    addresses = [_address(entry, where) for where, entry in entries]
    for (_, entry), address in zip(entries, addresses, strict=True):
        if address is not None:
            claims[address[1].casefold()].add(address[0])
        elif _path(entry) and Path(_path(entry)).parent == downloads:
            claims[Path(_path(entry)).name.casefold()].add(str(entry.get("url")))
    expanded: list[Any] = []
    unnamed: list[dict[str, Any]] = []
    for (where, entry), address in zip(entries, addresses, strict=True):
        if address is not None:
            url, file = address
            if len(claims[file.casefold()]) > 1:
                stem, dot, endings = file.partition(".")
                file = f"{stem}-{_hash(url)}{dot}{endings}"
            made = [entry | {"path": str(downloads / file), "url": url}]
            if url.startswith("ncbi:") and entry.get("name") is None:
                made[0]["name"] = url.removeprefix("ncbi:")
            if url.startswith("hf:") and entry.get("name") is None:
                _, *parts = hub_address(url)
                made[0]["name"] = _safe("-".join(part for part in (parts[0], *parts[2:]) if part))[:80]
        elif _is_pattern(entry):
            made = [entry | {"path": path} for path in _matches(entry, where)]
        else:
            expanded.append(entry)
            origins.append(where)
            continue
        expanded += made
        origins += [where] * len(made)
        unnamed += [one for one in made if one.get("name") is None]
    _name_apart(expanded, unnamed)
    return expanded


# ------------------------------------------------------------------------------------------- one entry


def _path(entry: Any) -> str:
    """The path of an entry that can be expanded, else an empty text."""
    path = entry.get("path") if isinstance(entry, dict) else None
    return str(path) if isinstance(path, (str, Path)) else ""


def _address(entry: Any, where: str) -> tuple[str, str] | None:
    """URL of an entry's file and the file name of its local copy; None when the path is no address."""
    path = _path(entry)
    if not path or entry.get("url") is not None or os.path.exists(path):
        return None
    if accession := _ACCESSION.fullmatch(path):
        if accession[1] is None:
            raise ValueError(f"{where}path: the accession {path} lacks its version; write for example {path}.1")
        return f"ncbi:{path}", f"{path}_genomic.fna.gz"
    scheme, colon, rest = path.partition("://")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return None
    if scheme.lower() not in SCHEMES:
        raise ValueError(
            f"{where}path: {path}: {scheme}:// is none of {', '.join(SCHEMES)}. Fetch the file by other means and give its local path"
        )
    try:
        parts = urlsplit(path)
    except ValueError as error:
        raise ValueError(f"{where}path: {path} is not a valid URL ({error})") from None
    if scheme.lower() == "hf":
        try:
            owner, name, revision, subset, split = hub_address(path)
        except ValueError as error:
            raise ValueError(f"{where}path: {error}") from None
        at = f"@{_safe(revision)}" if revision else ""
        chosen = (_safe(f"{key}-{part}") for key, part in (("subset", subset), ("split", split)) if part)
        return path, "--".join([_safe(owner), _safe(name) + at, *chosen]) + HUB_LIST
    if "@" in parts.netloc:
        raise ValueError(
            f"{where}path: a URL with a user name or password would be written to the results. Fetch the file by other means and give its local path"
        )
    key = rest.partition("/")[2] if scheme.lower() == "s3" else parts.path  # in a key, ? and # are letters like others
    file = _safe(unquote(key.rpartition("/")[2]))
    if not parts.netloc or not file:
        raise ValueError(f"{where}path: {path} does not name a file; its last part must be a file name")
    if len(file) > 150:
        file = f"{file[:60]}-{_hash(path)}-{file[-60:]}"
    return path, file


def hub_address(address: str) -> tuple[str, str, str, str, str]:
    """Owner, name, revision, subset and split (of these three empty where not given) of a dataset of the Hugging Face Hub.

    ``address`` is ``hf://OWNER/NAME``, with ``@REVISION`` and ``?subset=...&split=...`` behind it where wanted. Raises ValueError.
    """
    found = re.fullmatch(r"hf://(?:datasets/)?([\w.-]+)/([\w.-]+)(?:@([^?]+))?(?:\?(.*))?", address, re.IGNORECASE)
    options = dict(parse_qsl(found[4] or "")) if found else {}
    if found is None or set(options) - {"subset", "split"}:
        raise ValueError(
            f"{address}: a dataset of the Hugging Face Hub is written hf://OWNER/NAME, with @REVISION and ?subset=...&split=... behind it where wanted"
        )
    return found[1], found[2], found[3] or "", options.get("subset", ""), options.get("split", "")


def _is_pattern(entry: Any) -> bool:
    path = _path(entry)
    return bool(re.search(r"[*?[]", path)) and entry.get("url") is None and not os.path.exists(path)


def _matches(entry: dict[str, Any], where: str) -> list[str]:
    """The files that an entry's pattern matches, sorted."""
    pattern = _path(entry)
    found = sorted(glob.glob(pattern, recursive=True))
    paths = [path for path in found if os.path.isfile(path)]
    if not pattern.endswith(_INDEXES):
        paths = [path for path in paths if not path.endswith(_INDEXES)]
    if not paths:
        raise ValueError(f"{where}path: no file matches {pattern} (relative to {Path.cwd()})")
    for key, why in (("name", "names must differ"), ("md5", "a checksum belongs to one file")):
        if len(paths) > 1 and entry.get(key) is not None:
            raise ValueError(
                f"{where}{key}: {pattern} matches {len(paths)} files ({paths[0]}, {paths[1]}), and {why}. Leave {key} out, or list the files one by one"
            )
    return paths


# ---------------------------------------------------------------------------------------------- names


def _safe(text: str) -> str:
    """``text`` as a file name and a source name that every system takes; it is never hidden, ``.`` or ``..``."""
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._-]+", "_", text))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _stem(path: Path) -> str:
    return path.name.lstrip(".").split(".")[0] or path.name


def _name_apart(entries: list[Any], unnamed: list[dict[str, Any]]) -> None:
    """Give the entries among ``unnamed`` that would not have a name of their own by default one that is.

    All files of one default name are renamed in the same way, so that their order does not matter: by folder, else
    by whole file name, else by whole path.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in unnamed:
        groups[_stem(Path(entry["path"]))].append(entry)
    apart = {id(entry) for entry in unnamed}
    taken = {
        entry.get("name") or _stem(Path(_path(entry))) for entry in entries if _path(entry) and id(entry) not in apart
    }
    clashing = sorted(stem for stem, group in groups.items() if len(group) > 1 or stem in taken)
    taken |= set(groups) - set(clashing)
    ways = (
        lambda path: f"{path.parent.name}_{_stem(path)}",
        lambda path: _ENDINGS.sub("", path.name),
        lambda path: "_".join(path.parts),
        lambda path: f"{_stem(path)[:60]}-{_hash(str(path))}",
    )
    for stem in clashing:
        for way in ways:
            names = [_safe(way(Path(entry["path"]))) for entry in groups[stem]]
            if len(set(names)) == len(names) and taken.isdisjoint(names) and max(map(len, names)) <= 80:
                break
        for entry, name in zip(groups[stem], names, strict=True):
            entry["name"] = name
        taken |= set(names)


def _weighed(where: str, entry: dict[str, str]) -> dict[str, Any]:
    """A row of a sheet, its weight a number."""
    return entry | {"weight": _weight(entry["weight"], where)} if "weight" in entry else entry


def _weight(cell: str, where: str) -> float:
    try:
        weight = float(cell)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(
            f"{where}weight: {cell!r} is not a number of 0 or more; write for example 1.5, or leave it empty"
        )
    return weight
