"""Text datasets of the Hugging Face Hub: their files downloaded at one commit, checked, and listed in one small file.

The list stands for the dataset as a source: it names every file with its checksum, so that a token store knows when the
text changed, and is written last, so that a download that broke off goes on where it ended.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from titans_genomics.config import DataConfig, SourceConfig
from titans_genomics.data.batch import Advance, Batch
from titans_genomics.data.documents import check_parquet, read_jsonl, read_parquet
from titans_genomics.data.fetch import lock
from titans_genomics.data.hub_files import bar_of, choose_files, git_hash
from titans_genomics.data.text import read_text
from titans_genomics.files import file_sha256, write_json
from titans_genomics.progress import Progress
from titans_genomics.sheet import HUB_LIST, hub_address

MARK = "hub_dataset"
"""First key of a list, by which it is known."""

_CONVERTED = "refs/convert/parquet"  # the branch on which the Hub keeps datasets as Parquet: SUBSET/SPLIT/0000.parquet
_READERS = {"parquet": read_parquet, "jsonl": read_jsonl, "text": read_text}


def fetch_dataset(source: SourceConfig) -> Path:
    """The list of the files of a source's dataset (``source.path``), which are downloaded if need be.

    Raises
    ------
    ValueError
        No such dataset, subset or split, no file in it that can be read, or a file with another checksum than the Hub has.
    OSError
        No network; the message says what to do instead.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    assert source.url is not None
    owner, name, revision, subset, split = hub_address(source.url)
    if source.md5 is not None:
        raise ValueError(f"{source.url}: data.sources[].md5 is the checksum of one file; pin a commit instead: hf://{owner}/{name}@REVISION")  # fmt: skip
    source.path.parent.mkdir(parents=True, exist_ok=True)
    with source.path.with_name(f".{source.path.name}.lock").open("ab") as handle:
        lock(handle, source.path)
        if _complete(source):
            return source.path
        try:
            _download(source)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            at = f" at revision {revision}" if revision and isinstance(error, RevisionNotFoundError) else ""
            raise ValueError(
                f"{source.url}: the Hub has no such dataset{at}, or it is private or gated; then log in with `hf auth login`"
            ) from None
        except (OSError, HTTPError, HfHubHTTPError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise  # a full disk
            said = " ".join(str(error).split())[:200]
            folder = source.path.name.removesuffix(HUB_LIST)
            only = "*".join(part for part in (subset, split) if part)
            options = f" --revision {shlex.quote(revision)}" if revision else ""
            options += f" --include {shlex.quote('*' + only + '*')}" if only else ""
            raise OSError(
                f"{source.url}: the Hub cannot be reached ({said}). Run it again to go on from there; or, where there is network, "
                f"run `hf download {owner}/{name} --repo-type dataset{options} --local-dir {folder}`, bring the folder here and name its files "
                f"{f'of {split}' if split else 'to train on'}: path: {folder}/**/*.parquet"
            ) from None
    return source.path


def _complete(source: SourceConfig) -> bool:
    """Whether the dataset is there, from the same address; a file that is not as it was downloaded is removed."""
    try:
        same = json.loads(source.path.read_text())["url"] == source.url
        files = _files(source)[1] if same else []
    except (OSError, ValueError, KeyError, TypeError):
        return False
    changed = [path for path, size, sha256 in files if not _unchanged(path, size, sha256)]
    for path in changed:
        path.unlink(missing_ok=True)
    return same and not changed


def _download(source: SourceConfig) -> None:
    """The files of the dataset, then their list."""
    from huggingface_hub import HfApi, hf_hub_download

    assert source.url is not None
    owner, name, revision, subset, split = hub_address(source.url)
    repository = f"{owner}/{name}"
    endpoint = os.environ.get("HF_ENDPOINT")  # a mirror
    api = HfApi(endpoint=endpoint)
    info = api.dataset_info(repository, revision=revision or None, files_metadata=True)
    card = info.card_data.to_dict() if info.card_data else {}
    siblings = {entry.rfilename: entry for entry in info.siblings or []}
    kind, files = choose_files(list(siblings), card.get("configs") or [], subset, split, source.url)
    if not files and not revision:
        info = api.dataset_info(repository, revision=_CONVERTED, files_metadata=True)
        siblings = {entry.rfilename: entry for entry in info.siblings or []}
        kind, files = choose_files(list(siblings), [], subset, split, source.url)
    if not files:
        raise ValueError(
            f"{source.url}: no Parquet, JSONL or text file in this dataset. Convert it and name the files in data.sources"
        )
    folder = source.path.parent / source.path.name.removesuffix(HUB_LIST)
    entries = []
    with Progress(sum(siblings[file].size or 0 for file in files), "bytes", f"downloading {repository}") as progress:
        bar = bar_of(progress)
        for file in files:
            path = Path(
                hf_hub_download(
                    repository,
                    file,
                    repo_type="dataset",
                    revision=info.sha,
                    local_dir=folder,
                    tqdm_class=bar,
                    endpoint=endpoint,
                )
            )
            sha256 = _check(path, siblings[file])
            place = path.relative_to(source.path.parent.resolve() if path.is_absolute() else source.path.parent)
            entries.append({"path": place.as_posix(), "size": path.stat().st_size, "sha256": sha256})
    listed = {MARK: repository, "url": source.url, "revision": info.sha, "kind": kind, "files": entries}
    write_json(source.path, listed)


def _check(path: Path, entry: Any) -> str:
    """The SHA-256 of a downloaded file; ValueError when the Hub has another of it."""
    sha256 = _sha256_now(path)
    if entry.lfs is None:  # kept in git itself
        name, found, wanted = "git blob id", git_hash(path), entry.blob_id
    else:
        name, found, wanted = "SHA-256", sha256, entry.lfs.sha256
    if wanted is not None and wanted != found:
        path.unlink()
        raise ValueError(
            f"{path}: the file that came has another {name} ({found}) than the Hub says ({wanted}). It was removed: try again"
        )
    return sha256


# ------------------------------------------------------------------------------------------------- reading


def _files(source: SourceConfig) -> tuple[str, list[tuple[Path, int, str]]]:
    """Format, and path, size and SHA-256 of every file of a list. Raises ValueError."""
    try:
        listed = json.loads(source.path.read_text())
        files = [(source.path.parent / one["path"], int(one["size"]), str(one["sha256"])) for one in listed["files"]]
        if listed["kind"] not in _READERS or not files:
            raise ValueError("it lists nothing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source.path}: not a whole list of a Hub dataset ({error}). Remove it and run `titans-genomics fetch` again"
        ) from None
    return listed["kind"], files


def _unchanged(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and _sha256_now(path) == sha256


def _sha256_now(path: Path) -> str:
    """Of a file as it is at this moment; one process reads it through for this only once."""
    now = path.stat()
    return _sha256(path, now.st_size, now.st_mtime_ns)


@lru_cache(1 << 16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def _checked_files(source: SourceConfig, done: Callable[[int], None]) -> tuple[str, list[tuple[Path, int]]]:
    """Format, and path and size of every file of a list. Raises ValueError when one is not as it was downloaded."""
    kind, files = _files(source)
    for path, size, sha256 in files:
        if not _unchanged(path, size, sha256):
            raise ValueError(
                f"{path}: not there as it was downloaded (listed in {source.path}). Run `titans-genomics fetch` again"
            )
        done(size)
    return kind, [(path, size) for path, size, _ in files]


def check_dataset(source: SourceConfig, data: DataConfig) -> None:
    """Raise ValueError when a file of a list is not there as it was downloaded, or has no such column."""
    with Progress(sum(size for _, size, _ in _files(source)[1]), "bytes", f"checking {source.label}") as progress:
        kind, files = _checked_files(source, progress.update)
    if kind == "parquet":
        for path, _ in files:
            check_parquet(source.model_copy(update={"path": path}), data)


def read_dataset(
    source: SourceConfig, data: DataConfig, seed: int, dropped: Counter[str], advance: Advance
) -> Iterator[Batch]:
    """The documents of all files of a list, file by file; raises as the readers of their format do."""
    kind, files = _checked_files(source, lambda size: None)
    total, before = max(1, sum(size for _, size in files)), 0
    for path, size in files:

        def within(share: float | None, before: int = before, size: int = size) -> None:
            advance(None if share is None else (before + share * size) / total)

        yield from _READERS[kind](source.model_copy(update={"path": path}), data, seed, dropped, within)
        before += size
