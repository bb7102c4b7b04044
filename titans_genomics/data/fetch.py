"""Files named by URL or accession: downloaded once, resumed after a break, checked, and put in place whole.

What is there of a download stands in ``.NAME.part`` beside its place, and what it needs to be resumed in
``.NAME.part.json``; ``.NAME.json`` keeps the URL that a complete file came from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

from titans_genomics.config import SourceConfig
from titans_genomics.data.remote import DroppedError, MissingError, RefusedError, ask, patiently, text
from titans_genomics.progress import Progress

NCBI = "https://ftp.ncbi.nlm.nih.gov/genomes/all"
S3 = "https://{bucket}.s3.amazonaws.com/{key}"
S3_DOTTED = "https://s3.amazonaws.com/{bucket}/{key}"  # the certificate does not cover bucket names with dots


def fetch(source: SourceConfig) -> Path:
    """The path of a source's sequence file, which is downloaded from its ``url`` if need be.

    A file that is there is downloaded again only when it has another checksum than ``md5``, or was downloaded from
    another URL. A download that broke off, or was killed, goes on where it ended if the server can do that and the
    file there has not changed. A second process that wants the same file waits for the first.

    Parameters
    ----------
    source
        ``url`` is http, https, ftp, s3 (public objects), or ncbi:ACCESSION for the genomic FASTA of an assembly, which
        is held against NCBI's own checksum when ``md5`` is not given; or hf://OWNER/NAME for the files of a dataset.

    Raises
    ------
    FileNotFoundError
        No file and no URL.
    ValueError
        A wrong checksum, or a URL or accession under which there is nothing to be had.
    OSError
        No network, or a connection that keeps breaking.
    """
    path = source.path
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; data.sources[].path names a file")
    if source.url is None:
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such sequence file (data.sources[].path, relative to the working directory)"
            )
        if source.md5 is not None:
            check_md5(path, source.md5)
        return path
    if source.url.lower().startswith("hf:"):
        from titans_genomics.data.hub import fetch_dataset

        return fetch_dataset(source)
    return download(path, source.url, source.md5, f"data.sources, source {source.label!r}")


def download(path: Path, url: str, md5: str | None, what: str) -> Path:
    """The path of a file that is downloaded from ``url`` unless it is there: resumed, checked, once, as `fetch` has it.

    Parameters
    ----------
    path
        Where the file belongs.
    url
        An address of the kinds that `fetch` knows.
    md5
        MD5 checksum that the file must have (32 hexadecimal digits); None: none is known.
    what
        What the file is for, as error messages put it in brackets.

    Raises
    ------
    ValueError, OSError
        As `fetch`.
    """
    part = _beside(path, ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    while not _in_place(path, url, md5):
        with part.open("ab") as handle:
            lock(handle, path)
            if not part.exists() or not os.path.samestat(os.fstat(handle.fileno()), part.stat()):
                continue  # another process completed or removed it while this one waited
            try:
                if not _in_place(path, url, md5):
                    _download(path, url, md5, what, handle, part)
                return path
            except RefusedError as error:
                hint = ""
                if url.startswith("s3:"):
                    hint = ". Fetch objects of private buckets by other means, such as `aws s3 cp`, and give the local path"
                raise ValueError(f"{error} ({what}){hint}") from None
            except DroppedError as error:
                raise OSError(
                    f"{error} ({what}). Run it again to go on from there, or put the file at {path} by other means"
                ) from None
            finally:
                if not handle.tell():
                    part.unlink(missing_ok=True)
    return path


def check_md5(path: Path, md5: str) -> None:
    """Raise ValueError when a file does not have this MD5 checksum (32 hexadecimal digits in either case)."""
    found = _md5(path)
    if found != md5.lower():
        raise ValueError(
            f"{path}: the MD5 checksum is {found}, expected {md5.lower()} (data.sources[].md5). Copy or download the file again, or correct the checksum"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()


# ------------------------------------------------------------------------------------------ one download


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _in_place(path: Path, url: str, md5: str | None) -> bool:
    """Whether the file is there and is, as far as one can tell, the one that is meant."""
    if not path.is_file():
        return False
    if md5 is not None:
        return _md5(path) == md5.lower()
    return _recorded(_beside(path, ".json")).get("url", url) == url


def _recorded(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lock(handle: IO[bytes], path: Path) -> None:
    """Wait until no other process has ``handle`` locked, to download ``path``. File systems without locks are let pass."""
    with suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that downloads {path}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)


def _download(path: Path, address: str, md5: str | None, what: str, handle: IO[bytes], part: Path) -> None:
    """Fill the partial file that ``handle`` has open and locked, check it and move it to its place."""
    side = _beside(path, ".part.json")
    url, known = _resolve(address)
    md5 = md5 or known
    with Progress(None, "bytes", f"downloading {path.name}") as progress:
        progress.resume_at(handle.tell())

        def attempt() -> None:
            try:
                _transfer(url, handle, side, progress)
            except DroppedError as error:
                progress.update(0, note=str(error))
                raise

        patiently(attempt, handle.tell)
    handle.flush()
    os.fsync(handle.fileno())
    found = _md5(part) if md5 else None
    if md5 and found != md5.lower():
        part.unlink()
        side.unlink(missing_ok=True)
        raise ValueError(
            f"{path}: the MD5 checksum of what {url} gave is {found}, expected {md5.lower()} ({what}). The download was removed: try again, or correct the checksum"
        )
    part.replace(path)
    _beside(path, ".json").write_text(json.dumps({"url": address}) + "\n")
    side.unlink(missing_ok=True)


def _transfer(url: str, handle: IO[bytes], side: Path, progress: Progress) -> None:
    """One attempt to get the rest of a file. Writes begin at the end of ``handle``."""
    have, state = handle.tell(), _recorded(side)
    validator = state.get("validator") if state.get("url") == url else None
    reply = ask(url, have if validator else 0, validator)
    with closing(reply):
        if reply.start == 0:
            handle.truncate(0)
            handle.seek(0)
            progress.resume_at(0)
            side.write_text(json.dumps({"url": url, "validator": reply.validator}) + "\n")
        progress.total = reply.total
        while block := reply.get():
            try:
                handle.write(block)
                handle.flush()
            except OSError as error:
                raise OSError(error.errno, f"cannot write the download: {error.strerror}", handle.name) from None
            progress.update(len(block), note="")
    if reply.total is not None and handle.tell() < reply.total:
        raise DroppedError(f"{url}: the connection ended after {handle.tell():,} of {reply.total:,} bytes")


# ---------------------------------------------------------------------------------------------- addresses


def _resolve(url: str) -> tuple[str, str | None]:
    """The address that a source's ``url`` stands for, and the MD5 checksum that its server gives for it, if any."""
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme == "ncbi":
        return _ncbi(rest)
    if scheme == "s3":
        bucket, _, key = rest.removeprefix("//").partition("/")
        return (S3_DOTTED if "." in bucket else S3).format(bucket=bucket, key=quote(key)), None
    if scheme not in ("http", "https", "ftp") or not urlsplit(url).hostname:
        raise RefusedError(f"{url}: not a URL that can be fetched; known are http, https, ftp, s3 and ncbi:ACCESSION")
    return quote(url, safe="%/:?#[]@!$&'()*+,;=~"), None


def _ncbi(accession: str) -> tuple[str, str]:
    """URL and MD5 checksum of the genomic FASTA of an assembly such as GCF_000005845.2."""
    parts = re.fullmatch(r"(GC[AF])_(\d{3})(\d{3})(\d{3})\.\d+", accession)
    if parts is None:
        raise RefusedError(f"{accession}: not an NCBI assembly accession, such as GCF_000005845.2")
    base = "/".join([NCBI, *parts.groups()])
    try:
        listing = text(base + "/")
    except MissingError:
        listing = ""
    folders = sorted(set(re.findall(rf'href="(?:[^"]*/)?({parts[1]}_\d+\.\d+_[^"/]+)/?"', listing)))
    folder = next((folder for folder in folders if folder.startswith(accession + "_")), None)
    if folder is None:
        others = ", ".join(sorted({"_".join(folder.split("_")[:2]) for folder in folders}))
        hint = f"there is {others}" if others else "look it up at https://www.ncbi.nlm.nih.gov/datasets/genome"
        raise RefusedError(f"{accession}: NCBI has no such assembly under {base}; {hint}")
    file = f"{unquote(folder)}_genomic.fna.gz"
    for line in text(f"{base}/{folder}/md5checksums.txt").splitlines():
        md5, _, name = line.partition(" ")
        if name.strip().removeprefix("./") == file and re.fullmatch("[0-9a-f]{32}", md5):
            return f"{base}/{folder}/{quote(file)}", md5
    raise RefusedError(f"{accession}: NCBI lists no {file} under {base}/{folder}. Choose another assembly")
