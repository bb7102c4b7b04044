from __future__ import annotations

import gzip
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import config_for

from titans_genomics.data import text, utf8

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


def test_gzip_cut_short(tmp_path):
    path = tmp_path / "d.txt.gz"
    path.write_bytes(gzip.compress(bytes(range(256)) * 100)[:-20])
    with pytest.raises(ValueError, match=r"d\.txt\.gz: .*cut short"):
        read(path)
