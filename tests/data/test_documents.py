"""Documents of text: JSON Lines, Parquet, separators, and bytes that are not UTF-8."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from making import config_for, tokenized

from titans_genomics.data import documents, utf8
from titans_genomics.data.inspect import inspect_store, text_report
from titans_genomics.data.readers import check_source, open_source
from titans_genomics.data.store import TokenStore

BYTE = {"tokenizer": {"kind": "byte"}}


def read(path, kind="auto", dropped=None, encoding="keep", column=None, **text):
    source = {"path": str(path), "kind": kind, "column": column}
    config = config_for(source, **BYTE, text={"encoding": encoding, **text})
    check_source(config.data.sources[0], config.data)
    return list(open_source(config.data.sources[0], config.data, 1, dropped))


def contents(batches):
    """Name to bytes of every document."""
    found = {}
    for batch in batches:
        edges = [*batch.starts.tolist(), len(batch.codes)]
        for name, (start, end) in zip(batch.names, pairwise(edges), strict=True):
            assert name not in found
            found[name] = batch.codes[start:end].tobytes()
    return found


def whole(store):
    run = store.runs("train")[0]
    return run.read(0, len(run))


def lines(path, *rows, end="\n", **options):
    raw = end.join(row if isinstance(row, str) else json.dumps(row, **options) for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


# ------------------------------------------------------------------------------------------------- JSONL


TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=30)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 40), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_lines_of_json_in_blocks_of_any_length(tmp_path_factory, texts, length, plain, end):
    folder = tmp_path_factory.mktemp("rows")
    path = lines(folder / "d.jsonl", *({"id": 1, "text": text} for text in texts), end=end, ensure_ascii=not plain)
    raw, step = path.read_bytes(), 2 if end == "\n\n" else 1

    def blocks(path):
        for at in range(0, len(raw), length):
            yield np.frombuffer(raw[at : at + length], dtype=np.uint8), at / len(raw)

    dropped = Counter()
    expected = {f"d.jsonl.{step * i + 1}": text.encode() for i, text in enumerate(texts) if text}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utf8, "read_blocks", blocks)
        if not expected:
            with pytest.raises(ValueError, match=r"d\.jsonl: no text in the file"):
                read(path)
            return
        assert contents(read(path, dropped=dropped)) == expected
    counts = {documents.EMPTY: texts.count(""), documents.NULL: texts.count(None)}
    assert dropped == Counter({reason: count for reason, count in counts.items() if count})


@pytest.mark.parametrize("name", ["d.jsonl", "d.ndjson", "d.jsonl.gz", "D.JSONL"])
def test_lines_of_json_are_known_by_their_name(tmp_path, name):
    path = lines(tmp_path / name, {"text": "Grüße"}, {"text": "<|endoftext|>\n"})
    assert list(contents(read(path)).values()) == ["Grüße".encode(), b"<|endoftext|>\n"]


def test_json_of_another_name_must_be_called_jsonl(tmp_path):
    path = lines(tmp_path / "answer", {"text": "x"})
    with pytest.raises(ValueError, match="JSON file, perhaps the answer of a server"):
        read(path)
    assert list(contents(read(path, "jsonl")).values()) == [b"x"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"text": "cut sh', r"d\.jsonl: line 3: broken JSON \(Unterminated string.*column 10\).*'text' \(data\.text\.column\)"),
        ("[1, 2]", r"line 3: a list and no object"),
        ("17", r"line 3: a number and no object"),
        ("null", r"line 3: a value and no object"),
        ({"content": "x", "url": "y"}, r"line 3: no key 'text' \(data\.text\.column\); there is 'content', 'url'"),
        ({}, r"line 3: no key 'text' .*there are none"),
        ({"text": 5}, r"line 3: 'text' \(data\.text\.column\) is a number, not text"),
        ({"text": True}, r"line 3: 'text' .* is true or false, not text"),
        ({"text": ["x"]}, r"line 3: 'text' .* is a list, not text"),
        ("[" * 100_000, r"line 3: broken JSON"),
        ('{"text": "a"} {"text": "b"}', r"line 3: broken JSON \(Extra data"),
    ],
    ids=["cut", "list", "number", "null", "no key", "empty object", "a number", "a bool", "texts", "deep", "two"],
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path, bad, message):
    path = lines(tmp_path / "d.jsonl", {"text": "one"}, {"text": "two"}, bad, {"text": "four"})
    with pytest.raises(ValueError, match=message):
        read(path)


def test_an_array_is_not_lines(tmp_path):
    path = lines(tmp_path / "d.jsonl", '[{"text": "x"},', '{"text": "y"}]')
    with pytest.raises(ValueError, match=r"line 1: broken JSON .*jq -c"):
        read(path, "jsonl")


def test_the_column_is_that_of_the_source_or_of_the_section(tmp_path):
    path = lines(tmp_path / "d.jsonl", {"text": "t", "body": "b", "more": "m"})
    assert list(contents(read(path)).values()) == [b"t"]
    assert list(contents(read(path, column="body")).values()) == [b"b"]
    found = config_for({"path": str(path)}, **BYTE, text={"column": "more"})
    assert list(contents(open_source(found.data.sources[0], found.data)).values()) == [b"m"]
    with pytest.raises(ValueError, match=r"line 1: no key 'x' \(data\.sources\[\]\.column\)"):
        read(path, column="x")


# ----------------------------------------------------------------------------------------------- Parquet


@settings(max_examples=40, deadline=None)
@given(
    TEXTS, st.integers(1, 5), st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
)
def test_rows_of_parquet_are_documents(tmp_path_factory, texts, group, kind):
    path = tmp_path_factory.mktemp("rows") / "d.parquet"
    column = pa.array(texts, pa.string()).cast(kind)
    pq.write_table(pa.table({"n": range(len(texts)), "text": column}), path, row_group_size=group)
    dropped = Counter()
    expected = {f"d.parquet.{i + 1}": text.encode() for i, text in enumerate(texts) if text}
    if not expected:
        with pytest.raises(ValueError, match=r"d\.parquet: no text in the file"):
            read(path)
        return
    assert contents(read(path, dropped=dropped)) == expected
    assert dropped[documents.EMPTY] == texts.count("")
    assert dropped[documents.NULL] == texts.count(None)


def test_parquet_is_known_by_its_content(tmp_path):
    path = table(tmp_path / "whatever", text=["a", "b"])
    assert list(contents(read(path)).values()) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"content": ["a"], "n": [1]}, r"d\.parquet: no column 'text' \(data\.text\.column\); there is 'content', 'n'"),
        ({"text": [1, 2]}, r"column 'text' \(data\.text\.column\) holds int64, not text"),
        ({"text": [["a"], ["b"]]}, r"holds list<.*>, not text"),
        ({"text": [b"a"]}, r"holds binary, not text"),
    ],
    ids=["no column", "numbers", "lists", "binary"],
)
def test_parquet_without_such_text(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        read(table(tmp_path / "d.parquet", **columns))


def test_damaged_parquet(tmp_path):
    path = table(tmp_path / "d.parquet", text=["a" * 1000])
    raw = path.read_bytes()
    for cut in (raw[:-10], raw[: len(raw) // 2], raw[:4]):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"d\.parquet: damaged Parquet"):
            read(path)
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(ValueError, match="compressed with gzip, which Parquet files may not be"):
        read(path)


def test_parquet_takes_memory_that_does_not_grow_with_it(tmp_path):
    path = tmp_path / "d.parquet"
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="none", use_dictionary=False) as writer:
        for _ in range(6):  # row groups of 8 MB
            writer.write_table(pa.table({"text": [rng.bytes(2000).hex() for _ in range(2000)]}))
    config = config_for({"path": str(path)}, **BYTE)
    before, most, seen = pa.total_allocated_bytes(), 0, 0
    tracemalloc.start()
    for batch in open_source(config.data.sources[0], config.data):
        seen += len(batch.codes)
        most = max(most, pa.total_allocated_bytes() - before)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 6 * 2000 * 4000
    assert most < 16 << 20
    assert traced < 24 << 20


# ------------------------------------------------------------------------------------------------- UTF-8


RAW = st.lists(st.one_of(st.text(max_size=8).map(str.encode), st.binary(max_size=4)), max_size=8).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(RAW, st.integers(1, 9), st.sampled_from(["keep", "replace", "error"]))
@example(raw=utf8.BOM, length=1, mode="keep")
@example(raw=utf8.BOM + b"a" + utf8.BOM + b"\xff", length=2, mode="replace")
def test_bytes_that_are_not_utf8(tmp_path_factory, raw, length, mode):
    path = tmp_path_factory.mktemp("utf8") / "d.txt"
    path.write_bytes(raw)

    def blocks(path):
        for at in range(0, len(raw), length):
            yield np.frombuffer(raw[at : at + length], dtype=np.uint8), at / len(raw)

    strays = sum("\udc80" <= letter <= "\udcff" for letter in raw.decode("utf-8", "surrogateescape"))
    found = utf8.Utf8(path, mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utf8, "read_blocks", blocks)
        if mode == "error" and strays:
            with pytest.raises(UnicodeDecodeError) as error:
                raw.decode()
            with pytest.raises(ValueError, match=rf"d\.txt: byte {error.value.start:,} \(0x[0-9a-f]{{2}}\) is not UTF-8\. .*iconv"):  # fmt: skip
                list(found.blocks())
            return
        made = b"".join(block for block, _ in found.blocks())
    expected = raw if mode == "keep" else raw.decode("utf-8", "replace").encode()
    assert made == expected.removeprefix(utf8.BOM)  # the mark at a file's begin is no text
    assert found.strays == strays


@pytest.mark.parametrize("mode", ["keep", "replace"])
def test_what_is_not_utf8_is_counted_in_the_store(tmp_path, mode):
    path = tmp_path / "d.txt"
    path.write_bytes("Grüße ".encode("latin-1") * 300)
    store = tokenized(
        tmp_path / "store",
        {"path": str(path), "kind": "text"},
        **BYTE,
        text={"encoding": mode},
        split={"validation": 0, "test": 0},
    )
    manifest = store.manifest
    assert manifest["sources"][0]["not_utf8"] == 600
    assert manifest["sources"][0]["iupac"] == 0
    (warning,) = manifest["warnings"]
    assert "600 bytes are not UTF-8" in warning
    assert inspect_store(tmp_path / "store")["sources"][0]["not_utf8"] == 600
    codes = store.tokenizer.decode(whole(store))
    expected = path.read_bytes() if mode == "keep" else path.read_bytes().decode(errors="replace").encode()
    assert codes.tobytes() == expected


def test_a_store_is_made_anew_for_another_encoding(tmp_path):
    path = tmp_path / "d.txt"
    path.write_bytes(b"caf\xe9 " * 300)
    source, lengths = {"path": str(path), "kind": "text"}, []
    for mode in ("keep", "replace", "keep"):
        store = tokenized(tmp_path / "s", source, **BYTE, text={"encoding": mode}, split={"validation": 0, "test": 0})
        lengths.append(len(store.runs("train")[0]))
    assert lengths == [1501, 2101, 1501]


def test_refused_bytes_stop_before_anything_is_written(tmp_path):
    path = tmp_path / "d.txt"
    path.write_bytes(b"fine " * 10 + b"caf\xe9")
    with pytest.raises(ValueError, match=r"d\.txt: byte 53 \(0xe9\) is not UTF-8"):
        tokenized(tmp_path / "s", {"path": str(path), "kind": "text"}, **BYTE, text={"encoding": "error"})
    with pytest.raises(FileNotFoundError):
        TokenStore(tmp_path / "s")


@pytest.mark.parametrize("mode", ["replace", "error"])
def test_utf16_is_named(tmp_path, mode):
    path = tmp_path / "d.txt"
    path.write_bytes("Once upon a time".encode("utf-16"))
    with pytest.raises(ValueError, match=r"d\.txt: this is UTF-16 text\. Convert it"):
        read(path, "text", encoding=mode)


def test_halves_of_characters_in_json(tmp_path):
    path = lines(tmp_path / "d.jsonl", r'{"text": "a\ud800b"}', r'{"text": "\ud83e\uddec"}')
    assert list(contents(read(path)).values()) == [b"a\xed\xa0\x80b", "🧬".encode()]
    assert contents(read(path, encoding="replace"))["d.jsonl.1"] == b"a\xed\xa0\x80b".decode(errors="replace").encode()
    with pytest.raises(ValueError, match=r"d\.jsonl: line 1 is not UTF-8"):
        read(path, encoding="error")


# -------------------------------------------------------------------------------------- whole documents


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_the_same_documents_give_the_same_tokens(tmp_path, kind):
    texts = ["Grüße\n", "a b c\n" * 300, "x\n"]
    path = tmp_path / f"d.{kind}"
    if kind == "text":
        path.write_text("<|endoftext|>\n".join([texts[0], "", *texts[1:]]))
    elif kind == "jsonl":
        lines(path, *({"text": text} for text in [texts[0], "", *texts[1:]]))
    else:
        table(path, text=[texts[0], "", *texts[1:]])
    source = {"path": str(path), "kind": kind}
    store = tokenized(tmp_path / "s", source, **BYTE, split={"validation": 0, "test": 0})
    tokens = whole(store)
    parts = np.split(tokens, np.flatnonzero(tokens == store.tokenizer.eos) + 1)[:-1]
    assert [store.tokenizer.decode(part).tobytes().decode() for part in parts] == texts
    found = inspect_store(tmp_path / "s")
    assert found["sources"][0]["left_out"] == [{"reason": documents.EMPTY, "records": 1, "bases": None, "runs": None}]
    assert "empty document" in text_report(found)


def test_separators_at_the_ends_leave_out_no_document(tmp_path):
    path, dropped = tmp_path / "d.txt", Counter()
    path.write_text("<|endoftext|>\na\n<|endoftext|>\nb\n<|endoftext|>\n<|endoftext|>\n")
    assert len(contents(read(path, "text", dropped))) == 2
    assert not dropped


def test_one_run_reads_several_formats_of_text(tmp_path):
    (tmp_path / "a.txt").write_text("plain " * 100)
    lines(tmp_path / "b.jsonl", *({"text": "json " * 50} for _ in range(3)))
    table(tmp_path / "c.parquet", text=["rows " * 50] * 3)
    store = tokenized(
        tmp_path / "s", *(tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")), **BYTE, split={"block": 100}
    )
    assert [source["kind"] for source in store.manifest["sources"]] == ["text", "jsonl", "parquet"]
    assert store.tokenizer.text


def test_text_does_not_go_with_nucleotides(tmp_path):
    path = lines(tmp_path / "d.jsonl", {"text": "x"})
    with pytest.raises(ValueError, match=r"d\.jsonl: jsonl does not go with data\.tokenizer\.kind nucleotide"):
        tokenized(tmp_path / "s", path)
    (tmp_path / "x.fa").write_text(">c\n" + "ACGT" * 100)
    with pytest.raises(ValueError, match=r"d\.jsonl is text, .*x\.fa is fasta"):
        tokenized(tmp_path / "s", path, tmp_path / "x.fa", tokenizer={"kind": "bpe"})
