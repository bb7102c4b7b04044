"""Somebody's tokenizer of the kind of Llama 2: SentencePiece BPE with byte fallback, read from its tokenizer.json."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from making import tokenized
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from titans_genomics.config import TokenizerConfig
from titans_genomics.data.pieces import PIECE, learn_bpe, read_pieces
from titans_genomics.data.tokenizers import load_tokenizer

BOOK = Path(__file__).parents[2] / "resources" / "kjv.txt.gz"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA = ["<unk>", "<s>", "</s>"]


def book(letters: int) -> str:
    with gzip.open(BOOK) as file:
        return file.read(letters).decode()


def sentencepiece(
    size: int = 600, metaspace: bool = False, special: tuple[str, ...] = tuple(LLAMA), letters: int = 60_000
):
    """A tokenizer as Llama 2 has it (``metaspace``: as newer conversions write the same), learned from a book."""
    learner = tokenizers.Tokenizer(models.BPE(unk_token=special[0], byte_fallback=True, fuse_unk=True))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *BYTES], show_progress=False)
    learner.train_from_iterator(book(letters).splitlines(), trainer)
    content = json.loads(learner.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    if metaspace:
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.pre_tokenizer = None
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return made


@pytest.fixture(scope="module", params=["llama", "metaspace"])
def theirs(request):
    return sentencepiece(metaspace=request.param == "metaspace")


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "tokenizer.json"
    theirs.save(str(path))
    return read_pieces(path)


def codes(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, dtype=np.uint8)


def test_vocabulary_and_special_tokens(ours, theirs):
    assert ours.text
    assert ours.vocabulary[:600] == tuple(theirs.id_to_token(i) for i in range(600))
    assert (ours.bos, ours.eos, ours.pad) == (1, 2, 600)
    assert ours.added == ("pad",)
    assert ours.bases[:3].tolist() == [0, 0, 0]
    assert ours.bases[3:259].tolist() == [1] * 256


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12).map(str.encode), st.binary(max_size=6), st.sampled_from([b" ", "▁".encode(), b"<0x0A>", b"</s>", b"And God"])), max_size=10).map(b"".join))  # fmt: skip
@example(bytes(range(256)))
@example(("In the beginning ▁ God  created\n\n" * 300).encode())
@example("▁ ▁▁ x".encode())
@example(b" leading and trailing ")
def test_any_bytes_come_back(ours, raw):
    tokens = ours.encode(codes(raw))
    assert ours.decode(tokens).tobytes() == raw
    spans = list(zip(ours.starts(tokens).tolist(), ours.ends(tokens).tolist(), strict=True))
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]


@pytest.mark.parametrize("at", [0, 500, 5000])
def test_words_are_the_tokens_that_the_library_makes(ours, theirs, at):
    """Within a text; at its beginning the space is left out that they put there."""
    text = book(60_000)[at : at + 300]
    expected = theirs.encode(f"x {text}", add_special_tokens=False).tokens
    found = [ours.vocabulary[token] for token in ours.encode(codes(f"x {text}".encode()))]
    assert "".join(expected) == "▁" + "".join(found)
    assert found[-20:] == expected[-20:]


def test_characters_that_it_lacks_are_bytes(ours):
    found = [ours.vocabulary[token] for token in ours.encode(codes("🧬".encode()))]
    assert found == ["<0xF0>", "<0x9F>", "<0xA7>", "<0xAC>"]


def test_saved_and_read_by_us_and_by_the_library(ours, tmp_path):
    ours.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("And God said,  Let there be light\n", " x", "caf\u00e9 \U0001f9ec", "word " * 2 * PIECE):
        tokens = ours.encode(codes(text.encode()))
        assert again.encode(codes(text.encode())).tolist() == tokens.tolist()
        assert again.vocabulary == ours.vocabulary
        assert plain.decode(tokens.tolist()) == text
        if len(text) < PIECE:
            assert plain.encode(text, add_special_tokens=False).ids == tokens.tolist()


def test_thirty_two_thousand_tokens(tmp_path):
    """As many as Llama 2 has; what a small book does not teach is made up."""
    made = json.loads(sentencepiece().to_str())
    vocabulary, merges = made["model"]["vocab"], made["model"]["merges"]
    letters = [word for word in vocabulary if len(word) == 1 and word.isalpha()]
    for left in letters:
        for right in [word for word in list(vocabulary)[:700] if word.isalpha()]:
            if left + right not in vocabulary and len(vocabulary) < 32_000:
                vocabulary[left + right] = len(vocabulary)
                merges.append([left, right])
    while len(vocabulary) < 32_000:
        vocabulary[f"▁made{len(vocabulary)}"] = len(vocabulary)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made))
    ours = read_pieces(path)
    assert ours.vocab_size == 32_001  # padding
    assert ours.dtype == np.uint16
    raw = book(50_000).encode()
    tokens = ours.encode(codes(raw))
    assert tokens.max() < 32_000
    assert ours.decode(tokens).tobytes() == raw


def test_a_tokenizer_without_the_end_of_a_text_is_said(tmp_path):
    made = sentencepiece(special=("<unk>", "<s>"))
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    (tmp_path / "d.txt").write_text(book(4000))
    source = {"path": str(tmp_path / "d.txt"), "kind": "text"}
    given = {"tokenizer": {"kind": "bpe", "path": str(path)}, "split": {"block": 400, "validation": 0.2, "test": 0.2}}
    store = tokenized(tmp_path / "s", source, **given)
    warnings = [warning for warning in store.manifest["warnings"] if "tokenizer" in warning]
    assert len(warnings) == 1
    assert "no token for padding or the end of a text: <pad>, <eos> added" in warnings[0]
    run = store.runs("train")[0]
    assert store.tokenizer.vocabulary[run.read(0, len(run))[-1]] == "<eos>"


def test_one_with_all_its_tokens_says_nothing(tmp_path):
    learned = learn_bpe([codes(book(20_000).encode())], TokenizerConfig(kind="bpe", vocab_size=300), text=True)
    assert learned.added == ()
    learned.save(tmp_path / "tokenizer.json")
    assert read_pieces(tmp_path / "tokenizer.json").added == ()


def test_without_byte_fallback_it_is_refused(tmp_path):
    made = json.loads(sentencepiece().to_str())
    made["model"]["byte_fallback"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"tokenizer\.json: "):
        read_pieces(tmp_path / "tokenizer.json")
