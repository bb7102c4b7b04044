"""Sequence files to a token store (``folder`` and ``shard`` say what is in it).

Every source is read into a shard of its own, several at a time; then, all lengths known, the stretches that are used
and their splits are chosen, leaks between splits looked for, and the index written. Finished shards outlive a failure:
the next attempt goes on from them, and a store is rewritten only where a source or a setting changed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from titans_genomics.config import Config, SourceConfig
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
from titans_genomics.data.shard import SUFFIXES, TOKENS, Shard, ShardWriter, dropped_facts, reuse, shard_path
from titans_genomics.progress import Progress

_PIECE = 1 << 22


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
    if "text" in kinds and set(kinds) != {"text"}:
        text, other = (
            next(i for i, kind in enumerate(kinds) if (kind == "text") == is_text) for is_text in (True, False)
        )
        raise ValueError(
            f"{config.data.sources[text].path} is text, {config.data.sources[other].path} is {kinds[other]}: one run reads text or nucleotides. Give each a config of its own"
        )
    leaks = config.data.split.leaks
    if leaks.tool == "mmseqs2" and leaks.action != "off":
        find_program()  # a missing one is better noticed now than after all sources are read
    try:
        with store_folder.writing(out) as (folder, before):
            jobs = jobs or len(os.sched_getaffinity(0))
            _read_all(config, kinds, folder / SHARDS, before and before / SHARDS, jobs)
            return _finish(config, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        store_folder.discard(out)
        raise OSError(
            f"{out}: no room to write the token store ({os.strerror(error.errno)}). It needs about one byte per base; "
            "free some space or choose another folder. An older store there is unchanged"
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
                _read, source, kind, config, shards, before, _Share(progress, lock, source.path.stat().st_size), stop
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
    """Adds what was read of one file to the progress of all."""

    def __init__(self, progress: Progress, lock: threading.Lock, size: int) -> None:
        self.progress, self.lock, self.size, self.seen = progress, lock, size, 0.0

    def __call__(self, share: float | None) -> None:
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
    stop: threading.Event,
) -> None:
    """One source to its shard, unless it is there already."""
    if source.md5 is not None and source.url is None:  # of downloads `fetch` has looked at it
        check_md5(source.path, source.md5)
    checksum = _Checksum(source.path)
    settings = _settings(source, kind, config)
    if source.md5 is not None:
        check_md5(source.path, source.md5)
    for there in (shards, before):
        if there is not None and reuse(source.label, settings, source.path, there, shards, checksum.wait):
            advance(1.0)
            return
    checksum.start()
    state = source.path.stat()
    dropped: Counter[str] = Counter()
    writer = ShardWriter(shards, source.label, what(kind, config.data))
    try:
        with ThreadPoolExecutor(
            1, thread_name_prefix="writer"
        ) as beside:  # one batch is written while the next is read
            written: Future[None] | None = None
            for batch in _batches(source, kind, config, shards, dropped, advance):
                if stop.is_set():
                    raise InterruptedError
                if written is not None:
                    written.result()
                written = beside.submit(writer.add, batch)
            if written is not None:
                written.result()
        facts = {
            "settings": settings,
            "path": str(source.path),
            "bytes": state.st_size,
            "mtime_ns": state.st_mtime_ns,
            "sha256": checksum.wait(),
            "kind": kind,
            "dropped": dropped_facts(dropped),
        }
        after = source.path.stat()
        if (state.st_size, state.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ValueError(f"{source.path}: the file changed while it was read. Run again when it is complete")
        aligned_to = dict(contigs(source)) if kind in ("bam", "cram") else {}
        writer.finish(facts | {"contigs": aligned_to, "reference_bases": sum(aligned_to.values())})
    except BaseException:
        writer.abandon()
        raise
    advance(1.0)


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
    """Everything beside the file itself that its shard depends on."""
    data = config.data
    settings: dict[str, Any] = {"format": FORMAT, "kind": kind}
    if kind == "text":
        return settings
    settings |= {"iupac": data.iupac, "soft_mask": data.soft_mask}
    if kind in READS:
        reads = data.reads.model_dump(mode="json", exclude={"coverage"})
        settings |= {"reads": reads, "reference": source.reference and str(source.reference)}
    if kind in READS or data.iupac == "random":
        settings |= {"seed": config.seed}
    if data.iupac == "random":
        settings |= {"name": source.label}
    return settings


class _Checksum:
    """The SHA-256 of a file, computed beside other work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def wait(self) -> str:
        """The checksum, as hexadecimal digits."""
        self.start()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def _run(self) -> None:
        buffer = bytearray(_PIECE)
        try:
            with self.path.open("rb", buffering=0) as handle:
                while count := handle.readinto(buffer):
                    self._digest.update(memoryview(buffer)[:count])
        except OSError as error:
            self._error = error


# ------------------------------------------------------------------------------------------- writing


def _finish(config: Config, folder: Path) -> dict[str, Any]:
    """All shards are there: choose, look for leaks, encode, and write the index and the manifest."""
    data, sources = config.data, config.data.sources
    shards = [Shard(folder / SHARDS, source.label) for source in sources]
    for source, shard in zip(sources, shards, strict=True):
        check_n(source, data, shard)
    chosen = choose(config, shards)
    leaks = leak_gate(config, shards, chosen)
    check_splits(config, chosen)
    tokenizer = fit_tokenizer(config, shards, chosen)
    tokenizer.save(folder / TOKENIZER)
    runs = write_index(config, folder, shards, chosen, tokenizer)
    described = [describe(data, *each, runs) for each in zip(sources, shards, chosen, strict=True)]
    files = [INDEX, PLACES, TOKENIZER]
    if tokenizer.kind not in ("nucleotide", "byte"):
        files += [f"{SHARDS}/{shard_path(folder, source.label, TOKENS).name}" for source in sources]
    digest = hashlib.sha256()
    for name in (PLACES, TOKENIZER):
        digest.update((folder / name).read_bytes())
    made_from = [{key: shard.facts[key] for key in ("settings", "sha256", "bases")} for shard in shards]
    digest.update(json.dumps([made_from, runs], sort_keys=True).encode())
    manifest = {
        "format": FORMAT,
        "sha256": digest.hexdigest(),
        "tokens": sum(run["tokens"] for run in runs),
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "vocabulary": list(tokenizer.vocabulary),
        "sources": described,
        "runs": runs,
        "totals": totals_of(described),
        "leaks": leaks,
        "warnings": warnings_of(config, described),
        "config": {"seed": config.seed, "data": data.model_dump(mode="json")},
        "versions": versions(),
        "files": {name: (folder / name).stat().st_size for name in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest
