"""Sequence files to a token store (``folder`` and ``shard`` say what is in it).

Every source is read into a shard of its own, several at a time; then, all lengths known, the stretches that are used
and their splits are chosen, leaks between splits looked for, and the index written. Finished shards outlive a failure:
the next attempt goes on from them, and a store is rewritten only where a source or a setting changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from titans_genomics.config import Config, SourceConfig, check_kinds
from titans_genomics.config_data import TEXT_KINDS
from titans_genomics.data import folder as store_folder
from titans_genomics.data.bam import contigs
from titans_genomics.data.batch import Advance
from titans_genomics.data.detect import Kind
from titans_genomics.data.fetch import check_md5, fetch
from titans_genomics.data.folder import FORMAT, INDEX, MANIFEST, PLACES, SHARDS, TOKENIZER
from titans_genomics.data.gate import leak_gate
from titans_genomics.data.index import fit_tokenizer, write_index
from titans_genomics.data.layout import choose
from titans_genomics.data.leak_mmseqs import find_program
from titans_genomics.data.manifest import check_n, check_splits, describe, totals_of, versions, warnings_of
from titans_genomics.data.readers import READS, check_source, open_source, what
from titans_genomics.data.shard import (
    SUFFIXES,
    TOKENS,
    Shard,
    ShardWriter,
    reusable,
    shard_path,
    take_over,
)
from titans_genomics.data.source_file import SourceFile
from titans_genomics.data.tokenizers import make_tokenizer
from titans_genomics.progress import Progress

READERS = 1
"""Version of what the readers make of a file: raise it when the same file gives other bases, records or counts than
before, and every store is read anew."""


class _StoppedError(Exception):
    """Another source failed, or the run was interrupted."""


def tokenize(config: Config, out: Path, jobs: int | None = None) -> dict[str, Any]:
    """Read all sources of a config and write the token store folder ``out``; returns its manifest.

    Every file is looked at (format, ends, headers, indexes) before the first is read through.

    Parameters
    ----------
    config
        The run.
    out
        The folder to write; a store that is there is replaced, and what of it still holds is taken over.
    jobs
        Sources read at the same time; default: one per core.

    Raises
    ------
    FileNotFoundError
        A source is missing.
    ValueError
        Bad input, named by file, record and remedy; a split that leaves validation or test empty; a leak.
    OSError
        Writing failed, such as on a full disk. An older store in ``out`` is still there and whole.
    """
    out = Path(out)
    for source in config.data.sources:
        if source.url is not None:
            fetch(source)
    kinds = [check_source(source, config.data) for source in config.data.sources]
    check_kinds(config.data, kinds)
    if config.data.tokenizer.path is not None:
        make_tokenizer(config.data.tokenizer)  # a foreign file is better named now than after all sources are read
    leaks = config.data.split.leaks
    if leaks.tool == "mmseqs2" and leaks.action != "off":
        find_program()  # a missing one is better noticed now than after all sources are read
    try:
        with store_folder.writing(out) as (folder, before):
            jobs = jobs or len(os.sched_getaffinity(0))
            _read_all(config, kinds, folder / SHARDS, before and before / SHARDS, jobs)
            return _finish(config, folder)
    except OSError as error:
        if error.errno not in store_folder.FULL:
            raise
        raise OSError(
            f"{out}: no room to write the token store ({os.strerror(error.errno)}). It needs about one byte per base; free "
            "some space or choose another folder. An older store there is unchanged; sources that were read through are kept "
            f"beside it (.{Path(os.path.realpath(out)).name}.partial, which may be removed), and the same command goes on from there"
        ) from error


# ------------------------------------------------------------------------------------------- reading


def _read_all(config: Config, kinds: Sequence[Kind], shards: Path, before: Path | None, jobs: int) -> None:
    """A whole shard for every source, read or taken over."""
    sources = config.data.sources
    total = sum(source.path.stat().st_size for source in sources)
    stop = threading.Event()
    with (
        Progress(
            total, "bytes", f"reading {len(sources)} sources" if len(sources) > 1 else f"reading {sources[0].path.name}"
        ) as progress,
        ThreadPoolExecutor(jobs, thread_name_prefix="source") as pool,
    ):
        lock = threading.Lock()
        work = [
            pool.submit(
                _read, source, kind, config, shards, before, _Share(progress, lock, stop, source.path.stat().st_size)
            )
            for source, kind in zip(sources, kinds, strict=True)
        ]
        try:
            wait(work, return_when=FIRST_EXCEPTION)
            for done in work:
                if done.done():
                    done.result()
        except BaseException:
            stop.set()
            for waiting in work:
                waiting.cancel()
            raise
    kept = {shard_path(shards, source.label, suffix).name for source in sources for suffix in SUFFIXES}
    for path in shards.iterdir():
        if path.name not in kept:  # of a source that is no longer in the config, or the tokens of an attempt before
            path.unlink()


class _Share:
    """Adds what was read of one file to the progress of all, and ends the reading when another one has failed."""

    def __init__(self, progress: Progress, lock: threading.Lock, stop: threading.Event, size: int) -> None:
        self.progress, self.lock, self.stop, self.size, self.seen = progress, lock, stop, size, 0.0

    def __call__(self, share: float | None) -> None:
        if self.stop.is_set():
            raise _StoppedError
        if share is not None and share > self.seen:
            with self.lock:
                self.progress.update((share - self.seen) * self.size)
            self.seen = share


def _read(
    source: SourceConfig,
    kind: Kind,
    config: Config,
    shards: Path,
    before: Path | None,
    advance: _Share,
) -> None:
    """One source to its shard, unless it is there already."""
    file = SourceFile(source.path)
    reference = SourceFile(source.reference) if kind == "cram" and source.reference is not None else None
    made_with = {"settings": _settings(source, kind, config), "beside_settings": _beside_settings(source, kind)}
    md5 = {} if source.md5 is None else {"md5": source.md5.lower()}
    for there in (shards, before):
        found = there and reusable(there, source.label, made_with, file, reference)
        if found:
            if found.facts.get("md5") != md5.get("md5"):
                _check_md5(source)
            also = {} if reference is None else {"reference": found.facts["reference"] | reference.state}
            take_over(found, shards, found.facts | file.state | md5 | also)
            advance(1.0)
            return
    _check_md5(source)
    file.start()
    if reference is not None:
        reference.start()
    dropped: Counter[str] = Counter()
    writer = ShardWriter(shards, source.label, what(kind, config.data))
    try:
        with ThreadPoolExecutor(1) as beside:  # one batch is written while the next is read
            written: Future[None] | None = None
            for batch in _batches(source, kind, config, shards, dropped, advance):
                advance(None)
                if written is not None:
                    written.result()
                written = beside.submit(writer.add, batch)
            if written is not None:
                written.result()
        facts = made_with | file.facts() | md5 | {"kind": kind, "dropped": dict(dropped.most_common())}
        file.check_unchanged()
        if reference is not None:
            facts |= {"reference": reference.facts()}
            reference.check_unchanged()
        aligned_to = dict(contigs(source)) if kind in ("bam", "cram") else {}
        writer.finish(facts | {"contigs": aligned_to, "reference_bases": sum(aligned_to.values())})
    except BaseException:
        writer.abandon()
        raise
    advance(1.0)


def _check_md5(source: SourceConfig) -> None:
    """Raise ValueError unless a file has the checksum that the config gives; at downloads `fetch` has looked already."""
    if source.md5 is not None and source.url is None:
        check_md5(source.path, source.md5)


def _batches(
    source: SourceConfig, kind: Kind, config: Config, shards: Path, dropped: Counter[str], advance: Advance
) -> Iterator[Any]:
    """The batches of a source; of the consensus of its reads where that is wanted."""
    if kind in ("bam", "cram") and config.data.reads.consensus:
        from titans_genomics.data.consensus import consensus_fasta

        fasta = shard_path(shards, source.label, ".consensus.fa")
        try:
            consensus_fasta(source, config.data, fasta)
            pile = source.model_copy(update={"path": fasta, "kind": "fasta"})
            yield from open_source(pile, config.data, config.seed, dropped, advance)
        finally:
            fasta.unlink(missing_ok=True)
        return
    yield from open_source(source, config.data, config.seed, dropped, advance)


def _settings(source: SourceConfig, kind: Kind, config: Config) -> dict[str, Any]:
    """What the bases in a shard depend on, beside the content of the files that they are read from."""
    data = config.data
    settings: dict[str, Any] = {"format": FORMAT, "readers": READERS, "kind": kind}
    if kind in TEXT_KINDS:
        text = {"encoding": data.text.encoding}
        return settings | {"text": text if kind == "text" else text | {"column": source.column or data.text.column}}
    settings |= {"iupac": data.iupac, "soft_mask": data.soft_mask}
    if kind in READS:
        settings |= {"reads": data.reads.model_dump(mode="json", exclude={"coverage"})}
    if kind in READS or data.iupac == "random":
        settings |= {"seed": config.seed}
    if data.iupac == "random":
        settings |= {"name": source.label}
    return settings


def _beside_settings(source: SourceConfig, kind: Kind) -> dict[str, str]:
    """What a shard depends on and the store's checksum does not: who decodes alignments, and names of records."""
    if kind in ("bam", "cram"):
        return {"pysam": versions()["pysam"]}
    return {"file_name": source.path.name} if kind in TEXT_KINDS else {}


# ------------------------------------------------------------------------------------------- writing


def _finish(config: Config, folder: Path) -> dict[str, Any]:
    """All shards are there: choose, look for leaks, encode, and write the index and the manifest."""
    data, sources = config.data, config.data.sources
    shards = [Shard(folder / SHARDS, source.label) for source in sources]
    chosen = choose(config, shards)
    for source, shard, own in zip(sources, shards, chosen, strict=True):
        check_n(source, data, shard, own)
    leaks = leak_gate(config, shards, chosen)
    check_splits(config, chosen, text=any(shard.facts["what"] == "documents" for shard in shards))
    tokenizer = fit_tokenizer(config, shards, chosen)
    tokenizer.save(folder / TOKENIZER)
    runs = write_index(config, folder, shards, chosen, tokenizer)
    described = [
        describe(data, source, shard, own, runs) | {"side_files": _side_files(source, shard)}
        for source, shard, own in zip(sources, shards, chosen, strict=True)
    ]
    files = [INDEX, PLACES, TOKENIZER]
    if not tokenizer.plain:
        files += [f"{SHARDS}/{shard_path(folder, source.label, TOKENS).name}" for source in sources]
    digest = hashlib.sha256()
    for name in (PLACES, TOKENIZER):
        digest.update((folder / name).read_bytes())
    made_from = [
        {key: shard.facts[key] for key in ("settings", "sha256", "bases")}
        | {"reference": shard.facts.get("reference", {}).get("sha256")}
        for shard in shards
    ]
    digest.update(json.dumps([made_from, runs], sort_keys=True).encode())
    manifest = {
        "format": FORMAT,
        "sha256": digest.hexdigest(),
        "tokens": sum(run["tokens"] for run in runs),
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size} | _named(data.tokenizer.path),
        "vocabulary": list(tokenizer.vocabulary),
        "sources": described,
        "runs": runs,
        "totals": totals_of(described),
        "leaks": leaks,
        "warnings": warnings_of(config, described, leaks, tokenizer),
        "config": {"seed": config.seed, "data": data.model_dump(mode="json")},
        "versions": versions(),
        "files": {name: (folder / name).stat().st_size for name in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _side_files(source: SourceConfig, shard: Shard) -> dict[str, dict[str, str]]:
    """The files that were read beside a source's own, by their key in the config."""
    named = {"reference": source.reference, "regions": source.regions, "exclude": source.exclude}
    return {
        key: _named(path, (shard.facts.get(key) or {}).get("sha256")) for key, path in named.items() if path is not None
    }


def _named(path: Path | None, sha256: str | None = None) -> dict[str, str]:
    """Path and SHA-256 of a file, if there is one; ``sha256`` when it is known already."""
    return {} if path is None else {"path": str(path), "sha256": sha256 or SourceFile(path).sha256()}
