"""Official copies of benchmark datasets: found in a folder, or downloaded there, checked and put in place whole.

A dataset that was downloaded has a file ``.SOURCE.json`` that says where it came from. What is there of an unfinished
download lies in ``.DATASET.download`` beside its place.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from titans_genomics.config import DatasetConfig, DownstreamConfig
from titans_genomics.data.fetch import download, lock
from titans_genomics.data.hub_files import bar_of, git_hash
from titans_genomics.data.remote import DroppedError, RefusedError, text
from titans_genomics.files import file_sha256
from titans_genomics.progress import Progress
from titans_genomics.suites import SUITES, HubFiles, SuiteDataset, ZenodoFile

ZENODO = "https://zenodo.org"
HUB = "https://huggingface.co"
MAX_BYTES, MAX_FILES = 8 << 30, 2_000_000
"""The largest archive that is unpacked: bytes and files in it. The largest of the benchmarks has about 0.1 GB in 290,000 files."""

_THREADS = 16  # the file system answers several at once
_PIECE = 500  # files between two lines of progress
_SMALL = 1 << 20  # bytes of a file of which there may be _PIECE in memory
_TABLE = re.compile(r"\.(csv|tsv|parquet|fna|fa|fasta)(\.gz)?")
_PART = re.compile(rf"([-_.]?\d[-\w]*)?{_TABLE.pattern}")
_LAYOUTS = "train/CLASS/*.txt and test/CLASS/*.txt, or train and test files (and dev files, if any) as .csv, .tsv, .fna or .parquet"


def locate(dataset: SuiteDataset, settings: DownstreamConfig) -> DatasetConfig:
    """A benchmark dataset's official copy: in ``settings.folder``, or downloaded to it.

    Looked for are FOLDER/DATASET, FOLDER/SUITE/DATASET, the names that the official files give it there, and for
    GenomicBenchmarks the folder that its package downloads to.

    Raises
    ------
    FileNotFoundError
        There is no copy, and ``settings.download`` is false.
    OSError
        There is no copy, and no network.
    ValueError
        What was downloaded has another checksum or is no safe archive, or something else lies in its place.
    """
    places = _places(dataset, settings.folder)
    for place in places:
        if (found := _copy(place)) is not None:
            return _section(dataset, *found)
    if not settings.download:
        where = ", ".join(str(place) for place in places)
        raise FileNotFoundError(
            f"{dataset.name}: no copy in {where}, and downstream.download is false. {_by_hand(dataset, settings.folder)}"
        )
    _obtain(dataset, settings.folder)
    found = _copy(settings.folder / dataset.name)
    assert found is not None
    return _section(dataset, *found)


def _section(dataset: SuiteDataset, path: Path, test: Path | None) -> DatasetConfig:
    return DatasetConfig(
        path=path,
        test=test,
        name=dataset.name,
        task="classification",
        metric=dataset.metric,
        max_length=dataset.max_length,
        strands=dataset.strands,
    )


def _places(dataset: SuiteDataset, folder: Path) -> list[Path]:
    """Where a copy may lie, best first; a name that two suites share counts in the suite's own folder only."""
    bases = (folder, folder / dataset.suite)
    places = [base / dataset.name for base in bases]
    places += [base / place for base in bases for place in dataset.places]
    places.append(folder / dataset.suite / dataset.official)
    if dataset.suite == "genomic_benchmarks":
        places.append(Path.home() / ".genomic_benchmarks" / dataset.name)
    return list(dict.fromkeys(places))


def _copy(place: Path) -> tuple[Path, Path | None] | None:
    """What a `DatasetConfig` names of a folder that holds a copy: path and test; None when it holds none."""
    for base in (place, place / "data"):
        train, test = _split(base, "train"), _split(base, "test")
        if not train or not test:
            continue
        both = sorted(
            {path.name.removeprefix("train") for path in train} & {path.name.removeprefix("test") for path in test}
        )
        if len(both) > 1 and all(_TABLE.fullmatch(ending) for ending in both) and not _split(base, "dev"):
            return base / f"train{both[0]}", base / f"test{both[0]}"  # the same in several formats, as on the Hub
        return place, None
    return None


def _split(folder: Path, name: str) -> list[Path]:
    """The files, or the folder, of one split."""
    if not folder.is_dir():
        return []
    pattern = re.compile(rf"{name}({_PART.pattern})?")
    named = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return [path for path in named if not (path.is_dir() and _useless(path))]


def _useless(folder: Path) -> bool:
    """Whether there is nothing in a folder, or lists of intervals of a genome without the sequences."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if not entries or any(entry.is_dir() for entry in entries):
        return not entries
    try:
        with (gzip.open if entries[0].suffix == ".gz" else open)(entries[0], "rb") as handle:
            return {b"region", b"start", b"end"} <= set(handle.readline().strip().split(b","))
    except (OSError, EOFError):
        return False


def _url(dataset: SuiteDataset) -> str:
    """Where a person finds the dataset."""
    source = dataset.download
    if isinstance(source, ZenodoFile):
        return f"{ZENODO}/records/{source.record}/files/{quote(source.file)}?download=1"
    return f"{HUB}/datasets/{source.repo}/tree/{source.revision}/{PurePosixPath(source.files[0]).parent}"


def _by_hand(dataset: SuiteDataset, folder: Path) -> str:
    """What to do without network, and what may have gone wrong with a copy that is there."""
    said = f"Put a copy at {folder / dataset.name} ({_LAYOUTS}); it comes from {_url(dataset)}"
    plain = folder / dataset.official
    twins = [d.name for suite in SUITES.values() for d in suite.datasets if d.official == dataset.official]
    if len(twins) > 1 and plain not in _places(dataset, folder) and _copy(plain) is not None:
        said += f". {plain} may be any of {', '.join(twins)}: rename it to the one it is"
    for place in _places(dataset, folder):
        if (place / "train").is_dir() and _useless(place / "train"):
            said += f". {place} has no sequences (the intervals of the package genomic-benchmarks are not enough)"
    return said


# --------------------------------------------------------------------------------------------- downloads


def _obtain(dataset: SuiteDataset, folder: Path) -> None:
    """Download a dataset to FOLDER/DATASET, whole or not at all. A second process that wants it waits for the first."""
    target, temporary = folder / dataset.name, folder / f".{dataset.name}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    guard = folder / f".{dataset.name}.lock"
    with guard.open("ab") as handle:
        lock(handle, target)
        if _copy(target) is not None:
            return
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ValueError(
                f"{target}: is no copy of {dataset.name} in a known layout ({_LAYOUTS}). Move it away, and it is downloaded"
            )
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            if isinstance(dataset.download, ZenodoFile):
                facts = _from_zenodo(dataset, dataset.download, folder, temporary)
            else:
                facts = _from_hub(dataset, dataset.download, folder, temporary)
            inside = [temporary / dataset.official, temporary, *temporary.iterdir()]
            whole = next((place for place in inside if _copy(place) is not None), None)
            if whole is None:
                raise ValueError(f"{dataset.name}: what {facts['url']} gave is in no known layout ({_LAYOUTS})")
            facts["date"] = datetime.now(UTC).isoformat(timespec="seconds")
            (whole / ".SOURCE.json").write_text(json.dumps(facts, indent=2) + "\n")
            if target.exists():
                target.rmdir()
            whole.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(_unfinished(dataset, folder), ignore_errors=True)
        guard.unlink(missing_ok=True)


def _unfinished(dataset: SuiteDataset, folder: Path) -> Path:
    return folder / f".{dataset.name}.download"


def _from_zenodo(dataset: SuiteDataset, source: ZenodoFile, folder: Path, into: Path) -> dict[str, Any]:
    """Download and unpack an archive; its checksum is that of the Zenodo record."""
    url, archive = _url(dataset), _unfinished(dataset, folder) / source.file
    try:
        record = json.loads(text(f"{ZENODO}/api/records/{source.record}"))
        sums = {entry["key"]: entry["checksum"] for entry in record["files"]}
    except (DroppedError, RefusedError) as error:
        raise OSError(f"{error} (benchmark {dataset.name}). {_by_hand(dataset, folder)}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{ZENODO}/api/records/{source.record}: not the description of a record. {_by_hand(dataset, folder)}"
        ) from None
    kind, _, md5 = sums.get(source.file, "").partition(":")
    if kind != "md5":
        raise ValueError(
            f"{ZENODO}/records/{source.record}: no MD5 checksum of a file {source.file}. {_by_hand(dataset, folder)}"
        )
    try:
        download(archive, url, md5, f"benchmark {dataset.name}")
    except OSError as error:
        if error.errno is not None:  # not the network
            raise
        raise OSError(f"{error}. Or: {_by_hand(dataset, folder)}") from None
    unpack(archive, into)
    return {"url": url, "revision": f"record {source.record}", "sha256": {source.file: file_sha256(archive)}}


def _from_hub(dataset: SuiteDataset, source: HubFiles, folder: Path, into: Path) -> dict[str, Any]:
    """Download files of a Hub repository at one commit; each is held against the hash that the Hub has of it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    where: dict[str, Any] = {"repo_type": "dataset", "revision": source.revision, "endpoint": endpoint}
    sums = {}
    try:
        addresses = [hf_hub_url(source.repo, file, **where) for file in source.files]
        heads = [get_hf_file_metadata(address, endpoint=endpoint) for address in addresses]
        with Progress(sum(head.size or 0 for head in heads), "bytes", f"downloading {dataset.name}") as progress:
            bar = bar_of(progress)
            paths = [
                Path(
                    hf_hub_download(source.repo, file, local_dir=_unfinished(dataset, folder), tqdm_class=bar, **where)
                )
                for file in source.files
            ]
    except (OSError, HTTPError, EntryNotFoundError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        said = " ".join(str(error).split())
        raise OSError(f"{source.repo}: {said} (benchmark {dataset.name}). {_by_hand(dataset, folder)}") from None
    for path, head, address in zip(paths, heads, addresses, strict=True):
        sums[path.name] = file_sha256(path)
        known = re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", head.etag or "")  # what a mirror may say besides is no hash
        if known and head.etag not in (sums[path.name], git_hash(path)):
            path.unlink()
            raise ValueError(
                f"{address}: the file that came has another hash than the Hub says ({head.etag}). It was removed: try again, or: {_by_hand(dataset, folder)}"
            )
    for path in paths:
        path.replace(into / path.name)
    return {"url": f"{HUB}/datasets/{source.repo}", "revision": source.revision, "sha256": sums}


# ---------------------------------------------------------------------------------------------- archives


def unpack(archive: Path, into: Path) -> None:
    """Unpack a zip file to an empty folder.

    Raises
    ------
    ValueError
        It is no zip file, is damaged, or has something in it that a dataset has no need of: a path that leads out of the
        folder, a link, a password, more than `MAX_BYTES` bytes or `MAX_FILES` files.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            _check(archive, members)
            parents = {into / m.filename if m.is_dir() else (into / m.filename).parent for m in members}
            for folder in sorted(parents):
                folder.mkdir(parents=True, exist_ok=True)

            with (
                ThreadPoolExecutor(_THREADS) as pool,
                Progress(len(members), "files", f"unpacking {archive.name}") as progress,
            ):
                for first in range(0, len(members), _PIECE):
                    piece = members[first : first + _PIECE]
                    small = [m for m in piece if not m.is_dir() and m.file_size <= _SMALL]
                    paths, contents = [into / m.filename for m in small], [zipped.read(m) for m in small]
                    list(pool.map(Path.write_bytes, paths, contents))
                    for member in piece:
                        if not member.is_dir() and member.file_size > _SMALL:
                            with zipped.open(member) as packed, (into / member.filename).open("xb") as whole:
                                shutil.copyfileobj(packed, whole)
                    progress.update(len(piece))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{archive}: not a zip file that can be read ({error}). Remove it, and it is downloaded again"
        ) from None


def _check(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Whether an archive is safe to unpack."""
    total, names = sum(member.file_size for member in members), set()
    if total > MAX_BYTES or len(members) > MAX_FILES:
        raise ValueError(
            f"{archive}: would unpack to {total:,} bytes in {len(members):,} files, more than any benchmark has. Unpack it by hand if it is what you want"
        )
    for member in members:
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        why = None
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            why = "leads out of its folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "is a link or a device"
        elif member.flag_bits & 1:
            why = "has a password"
        elif name in names:
            why = "is there twice"
        if why is not None:
            raise ValueError(f"{archive}: {name!r} in it {why}; nothing was unpacked. Do not trust this archive")
        names.add(name)
