from __future__ import annotations

import gzip
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for, tokenized

from titans_genomics.data import text, utf8
from titans_genomics.data.inspect import inspect_store, text_report

PARTS = [
    b"<|endoftext|>",
    b"<|endof",
    b"text|>",
    b"\n",
    b"\r\n",
    b"\r",
    b" ",
    b"a",
    b"\xff\x00",
    b"\n<|endoftext|>\n",
    b"word\n",
]


def read(path):
    config = config_for({"path": str(path), "kind": "text"})
    return list(text.read_text(config.data.sources[0], config.data, 1, Counter(), lambda share: None))


def documents(batches):
    found, name = {}, None
    for batch in batches:
        assert batch.codes.dtype == np.uint8
        edges = [0, *batch.starts.tolist(), len(batch.codes)]
        for i, (start, end) in enumerate(pairwise(edges)):
            if i:
                name = batch.names[i - 1]
                assert name not in found
            if i or end > start:
                found[name] = found.get(name, b"") + batch.codes[start:end].tobytes()
    return found


def split(raw):
    """What stands between the separator lines, empty documents left out."""
    found = [b""]
    for line in re.findall(rb"[^\n]*\n|[^\n]+", raw):
        if line.removesuffix(b"\n").removesuffix(b"\r") == b"<|endoftext|>":
            found.append(b"")
        else:
            found[-1] += line
    return [document for document in found if document]


def test_a_file_is_a_document_of_its_bytes(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_bytes("Grüße\n\f\x00\n".encode() + bytes(range(256)))
    assert documents(read(path)) == {"poem.txt": path.read_bytes()}
    zipped = tmp_path / "poem.txt.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert documents(read(zipped)) == {"poem.txt.gz": path.read_bytes()}


def test_documents_between_separators(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text(
        "<|endoftext|>\none\ntwo\n<|endoftext|>\n<|endoftext|>\nsays <|endoftext|>\n <|endoftext|>\n<|endoftext|>\nlast"
    )
    assert documents(read(path)) == {
        "d.txt": b"one\ntwo\n",
        "d.txt.2": b"says <|endoftext|>\n <|endoftext|>\n",
        "d.txt.3": b"last",
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=20), st.integers(1, 30))
def test_blocks_of_any_length_give_the_same_documents(tmp_path_factory, parts, length):
    path = tmp_path_factory.mktemp("text") / "d.txt"
    raw = b"".join(parts)
    path.write_bytes(raw)

    def blocks(path):
        for at in range(0, len(raw), length):
            yield np.frombuffer(raw[at : at + length], dtype=np.uint8), at / len(raw)

    expected = split(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utf8, "read_blocks", blocks)
        if not expected:
            with pytest.raises(ValueError, match=r"d\.txt: no text"):
                read(path)
            return
        found = documents(read(path))
    assert list(found.values()) == expected
    assert list(found) == ["d.txt", *(f"d.txt.{i}" for i in range(2, len(expected) + 1))]


def test_a_byte_order_mark_is_no_text_at_the_start_only(tmp_path):
    path = tmp_path / "d.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n<|endoftext|>\n\xef\xbb\xbfthree")
    expected = {"d.txt": b"one\n\xef\xbb\xbftwo\n", "d.txt.2": b"\xef\xbb\xbfthree"}
    assert documents(read(path)) == expected
    path.write_bytes(b"\xef\xbb\xbf<|endoftext|>\none")
    assert documents(read(path)) == {"d.txt": b"one"}


def test_progress_and_the_terminal_page_speak_of_bytes(tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "word word"}\n{"text": ""}\n{"text": null}\n' * 200)
    store = tokenized(tmp_path / "s", {"path": str(path)}, tokenizer={"kind": "byte"}, split={"block": 100})
    assert re.search(r"writing the index: .*bytes", capsys.readouterr().err)
    page = text_report(inspect_store(store.path))
    head, row = re.search(r"What was read\n(.*)\n(.*)", page).groups()
    assert re.split(r"  +", head.strip()) == ["source", "read", "left out", "used", "bytes", "not UTF-8", "on disk"]
    assert row.split()[1:6] == ["200", "400", "200", "documents", "1,800"]


@pytest.mark.parametrize("by", ["block", "contig"])
def test_too_little_text_to_split_and_what_to_do(tmp_path, by):
    path = tmp_path / "d.txt"
    data = {"tokenizer": {"kind": "byte"}}
    for words, block in ((30, 100), (3000, 1800)):
        path.write_text("hello world " * words)
        with pytest.raises(ValueError, match=rf"0 bytes are too few .*data\.split\.block {block} or less, or add text") as caught:  # fmt: skip
            tokenized(tmp_path / "s", {"path": str(path)}, split={"by": by}, **data)
        assert not re.search("bases|contig|reads|sequence", str(caught.value).removeprefix(str(path)))
        tokenized(tmp_path / f"s{words}", {"path": str(path)}, split={"block": block}, **data)
    path.write_text("hello world " * 10)
    with pytest.raises(ValueError, match=r"120 bytes are too few .* Add text, or files of their own"):
        tokenized(tmp_path / "s", {"path": str(path)}, split={"by": by}, **data)
    own = [tmp_path / f"{split}.txt" for split in ("train", "validation", "test")]
    for file in own:
        file.write_text("hello world " * 10)
    tokenized(tmp_path / "own", *({"path": str(file), "split": file.stem} for file in own), **data)


def test_gzip_cut_short(tmp_path):
    path = tmp_path / "d.txt.gz"
    path.write_bytes(gzip.compress(bytes(range(256)) * 100)[:-20])
    with pytest.raises(ValueError, match=r"d\.txt\.gz: .*cut short"):
        read(path)
