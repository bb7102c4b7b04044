from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sentencepiece import sentencepiece
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from titans_genomics.config import TokenizerConfig
from titans_genomics.data import alphabet, pieces
from titans_genomics.data.alphabet import reverse_complement
from titans_genomics.data.tokenizers import Tokenizer, learn_bpe, load_tokenizer, make_tokenizer

H_PYLORI = Path(__file__).parent.parent.parent / "resources" / "h_pylori.fa.gz"
N = alphabet.N
KMERS = [(k, overlap) for k in range(2, 8) for overlap in (False, True)]
TEXT = b"The genome of Helicobacter pylori has 1.67 Mb;\n\tits origin  is \xc3\xb8riC \xf0\x9f\xa7\xac. <pad> " * 40


def kmers(k: int, overlap: bool) -> Tokenizer:
    return make_tokenizer(TokenizerConfig(kind="kmer", k=k, overlap=overlap))


def h_pylori() -> np.ndarray:
    with gzip.open(H_PYLORI, "rt") as fasta:
        return alphabet.encode("".join(line.strip() for line in fasta if not line.startswith(">")))


def learned(text: bool, vocab_size: int = 300) -> Tokenizer:
    codes = np.frombuffer(TEXT, dtype=np.uint8) if text else h_pylori()[:50_000]
    return learn_bpe([codes], TokenizerConfig(kind="bpe", vocab_size=vocab_size), text)


ALL = {f"kmer{k}{'-overlap' if overlap else ''}": kmers(k, overlap) for k, overlap in KMERS}
ALL |= {
    "nucleotide": make_tokenizer(TokenizerConfig()),
    "byte": make_tokenizer(TokenizerConfig(kind="byte")),
    "bpe": learned(text=False),
    "text-bpe": learned(text=True),
}
DNA = {name: tokenizer for name, tokenizer in ALL.items() if not tokenizer.text}
SAME_LENGTH = {name: tokenizer for name, tokenizer in DNA.items() if tokenizer.kind != "bpe"}

every = pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
every_dna = pytest.mark.parametrize("tokenizer", DNA.values(), ids=DNA)
every_fixed = pytest.mark.parametrize("tokenizer", SAME_LENGTH.values(), ids=SAME_LENGTH)

# Mostly long stretches free of N, so that k-mers occur.
stretches = st.one_of(st.text("ACGT", max_size=30), st.text("ACGTN", max_size=30), st.text("N", max_size=3))
sequences = st.lists(stretches, max_size=4).map(lambda parts: alphabet.encode("".join(parts)))


def codes_for(tokenizer: Tokenizer, data: st.DataObject) -> np.ndarray:
    if not tokenizer.text:
        return data.draw(sequences)
    text = st.text(max_size=20).map(str.encode)
    return np.frombuffer(b"".join(data.draw(st.lists(st.one_of(text, st.binary(max_size=20)), max_size=4))), np.uint8)


def letters(codes: np.ndarray) -> str:
    return alphabet.decode(codes)


# ------------------------------------------------------------------------------- vocabulary and round trip


@every
def test_the_vocabulary_agrees_with_itself(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer.vocabulary) == len(set(tokenizer.vocabulary))
    assert tokenizer.dtype == (np.uint8 if tokenizer.vocab_size <= 256 else np.uint16)
    assert tokenizer.bases.shape == tokenizer.scored.shape == (tokenizer.vocab_size,)
    assert (tokenizer.bases.dtype, tokenizer.scored.dtype) == (np.int64, np.bool_)
    special = [tokenizer.pad, tokenizer.bos, tokenizer.eos]
    assert [tokenizer.vocabulary[token] for token in special] == ["<pad>", "<bos>", "<eos>"]
    assert np.flatnonzero(tokenizer.bases == 0).tolist() == special
    for token, word in enumerate(tokenizer.vocabulary):
        clean = token not in special and (tokenizer.text or set(word) <= set("ACGT"))
        assert tokenizer.scored[token] == clean


@every
def test_tokens_give_back_what_was_encoded(tokenizer):
    @given(st.data())
    @settings(deadline=None, max_examples=50)
    def check(data):
        codes = codes_for(tokenizer, data)
        tokens = tokenizer.encode(codes)
        assert tokens.dtype == tokenizer.dtype
        assert not tokens.size or tokens.max() < tokenizer.vocab_size
        decoded = tokenizer.decode(tokens)
        assert decoded.dtype == np.uint8
        assert decoded.tobytes() == codes.tobytes()
        assert tokenizer.decode(tokens.astype(np.int64)).tobytes() == codes.tobytes()

    check()


@every
def test_every_token_spells_the_bases_it_stands_on(tokenizer):
    @given(st.data())
    @settings(deadline=None, max_examples=50)
    def check(data):
        codes = codes_for(tokenizer, data)
        tokens = tokenizer.encode(codes)
        starts, ends = tokenizer.starts(tokens), tokenizer.ends(tokens)
        assert starts.dtype == ends.dtype == np.int64
        for token, start, end in zip(tokens, starts, ends, strict=True):
            spelled = "".join(pieces.BYTE_LETTERS[byte] for byte in codes[start:end])
            assert tokenizer.vocabulary[token] == (spelled if tokenizer.text else letters(codes[start:end]))
        assert tokenizer.bases[tokens].sum() == len(codes)
        if not getattr(tokenizer, "overlap", False):
            assert starts.tolist() == [0, *ends[:-1]][: len(starts)]

    check()


@every
def test_special_tokens_stand_for_no_base(tokenizer):
    codes = np.frombuffer(TEXT[:50], np.uint8) if tokenizer.text else alphabet.encode("ACGTACGTNACG")
    tokens = tokenizer.encode(codes)
    framed = np.array([tokenizer.bos, *tokens, tokenizer.eos, tokenizer.pad])
    assert tokenizer.decode(framed).tobytes() == codes.tobytes()
    assert tokenizer.starts(framed)[1:-2].tolist() == tokenizer.starts(tokens).tolist()


@every
@pytest.mark.parametrize("token", [-1, 70_000])
def test_a_token_outside_the_vocabulary_is_an_error(tokenizer, token):
    with pytest.raises(ValueError, match=str(token)):
        tokenizer.decode(np.array([0, token]))


def test_nucleotides_are_numbered_as_in_the_alphabet():
    tokenizer = ALL["nucleotide"]
    assert tokenizer.vocabulary == alphabet.VOCABULARY
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos) == (alphabet.PAD, alphabet.BOS, alphabet.EOS)
    assert tokenizer.encode(alphabet.encode("ACGTN")).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("k", "overlap"), KMERS)
def test_kmers_come_in_order_then_bases_then_special_tokens(k, overlap):
    tokenizer = kmers(k, overlap)
    assert tokenizer.vocab_size == 4**k + 8
    assert list(tokenizer.vocabulary[: 4**k]) == sorted(tokenizer.vocabulary[: 4**k])
    assert tokenizer.vocabulary[4**k :] == ("A", "C", "G", "T", "N", "<pad>", "<bos>", "<eos>")
    assert set(tokenizer.bases[: 4**k]) == {1 if overlap else k}


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (False, "ACG TAC G T N N A C N ACG"),
        (True, "ACG CGT GTA TAC ACG CGT G T N N A C N ACG C G"),
    ],
)
def test_kmers_never_hold_an_n_nor_pass_an_end(overlap, expected):
    tokenizer = kmers(3, overlap)
    tokens = tokenizer.encode(alphabet.encode("ACGTACGTNNACNACG"))
    assert " ".join(tokenizer.vocabulary[token] for token in tokens) == expected


# -------------------------------------------------------------------------------------- the other strand


@every_dna
def test_the_other_strand_has_the_reverse_complement_of_the_bases(tokenizer):
    @given(sequences)
    @settings(deadline=None, max_examples=50)
    def check(codes):
        turned = tokenizer.reverse_complement(tokenizer.encode(codes))
        assert turned.dtype == tokenizer.dtype
        assert letters(tokenizer.decode(turned)) == letters(reverse_complement(codes))
        assert letters(tokenizer.decode(tokenizer.reverse_complement(turned))) == letters(codes)

    check()


@every_fixed
def test_turning_twice_gives_back_the_tokens(tokenizer):
    @given(sequences, st.booleans())
    @settings(deadline=None, max_examples=50)
    def check(codes, framed):
        tokens = tokenizer.encode(codes).tolist()
        tokens = np.array([tokenizer.bos, *tokens, tokenizer.eos] if framed else tokens, dtype=tokenizer.dtype)
        turned = tokenizer.reverse_complement(tokens)
        assert turned.shape == tokens.shape
        assert tokenizer.reverse_complement(turned).tolist() == tokens.tolist()
        if framed:
            assert (turned[0], turned[-1]) == (tokenizer.eos, tokenizer.bos)

    check()


@pytest.mark.parametrize("k", range(2, 8))
@given(codes=sequences)
@settings(deadline=None, max_examples=50)
def test_overlapping_kmers_turned_are_those_of_the_other_strand(k, codes):
    tokenizer = ALL[f"kmer{k}-overlap"]
    turned = tokenizer.reverse_complement(tokenizer.encode(codes))
    assert turned.tolist() == tokenizer.encode(reverse_complement(codes)).tolist()


@every_fixed
def test_a_window_turned_is_the_window_of_the_turned_row(tokenizer):
    """Rows of several stretches with EOS between them, as windows are cut from."""

    @given(st.lists(sequences, min_size=1, max_size=3), st.data())
    @settings(deadline=None, max_examples=50)
    def check(rows, data):
        row = np.concatenate([[*tokenizer.encode(codes), tokenizer.eos] for codes in rows]).astype(tokenizer.dtype)
        turned = np.concatenate(
            [[tokenizer.eos, *tokenizer.reverse_complement(tokenizer.encode(codes))] for codes in reversed(rows)]
        )
        start = data.draw(st.integers(0, len(row)))
        end = data.draw(st.integers(start, len(row)))
        padded = np.concatenate([np.full(tokenizer.context, tokenizer.pad, tokenizer.dtype), row])
        window = tokenizer.turned(padded[start : end + tokenizer.context])
        assert window.dtype == tokenizer.dtype
        assert window.tolist() == turned[len(row) - end : len(row) - start].tolist()

    check()


@every_fixed
def test_a_batch_is_turned_row_by_row(tokenizer):
    codes = np.random.default_rng(0).integers(0, 4, (3, 42), dtype=np.uint8)
    batch = np.stack([tokenizer.encode(row) for row in codes])
    turned = tokenizer.reverse_complement(batch)
    assert turned.tolist() == [tokenizer.reverse_complement(row).tolist() for row in batch]


def test_only_overlapping_kmers_need_context():
    assert {name: tokenizer.context for name, tokenizer in ALL.items() if tokenizer.context} == {
        f"kmer{k}-overlap": k - 1 for k in range(2, 8)
    }


def test_special_tokens_keep_their_place_between_turned_pieces():
    tokenizer = ALL["bpe"]
    one, two = alphabet.encode("ACGGTTTACC"), alphabet.encode("GGGNA")
    row = np.array([*tokenizer.encode(one), tokenizer.eos, *tokenizer.encode(two)])
    expected = [
        *tokenizer.encode(reverse_complement(two)),
        tokenizer.eos,
        *tokenizer.encode(reverse_complement(one)),
    ]
    assert tokenizer.reverse_complement(row).tolist() == expected


@pytest.mark.parametrize("name", ["byte", "text-bpe"])
def test_text_has_no_other_strand(name):
    with pytest.raises(ValueError, match="reverse complement"):
        ALL[name].reverse_complement(np.array([65, 66]))


# ------------------------------------------------------------------------------------------------- files


@every
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "new" / "tokenizer.json"
    tokenizer.save(path)
    again = load_tokenizer(path)
    assert type(again) is type(tokenizer)
    assert again.settings == tokenizer.settings
    assert again.vocabulary == tokenizer.vocabulary
    assert (again.pad, again.bos, again.eos, again.text) == (
        tokenizer.pad,
        tokenizer.bos,
        tokenizer.eos,
        tokenizer.text,
    )
    assert again.bases.tolist() == tokenizer.bases.tolist()
    assert again.scored.tolist() == tokenizer.scored.tolist()
    codes = np.frombuffer(TEXT, np.uint8) if tokenizer.text else h_pylori()[60_000:70_000]
    assert again.encode(codes).tolist() == tokenizer.encode(codes).tolist()
    again.save(tmp_path / "again" / "tokenizer.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


@every
def test_hugging_face_tools_read_the_same_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert all(theirs.token_to_id(word) == token for token, word in enumerate(tokenizer.vocabulary))

    @given(st.data())
    @settings(deadline=None, max_examples=50)
    def check(data):
        if tokenizer.text:
            text = data.draw(st.text(max_size=40))
            ours = tokenizer.encode(np.frombuffer(text.encode(), np.uint8))
        else:
            codes = data.draw(sequences)
            text, ours = letters(codes), tokenizer.encode(codes)
        encoded = theirs.encode(text)
        assert encoded.ids == ours.tolist()
        assert theirs.decode(encoded.ids) == text

    check()


@every_dna
def test_hugging_face_tools_read_letters_as_we_do(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    mixed = "acguUTACGACGTNnRYSWKMBDHVryswkmbdhvACGTTGCATGCA"
    assert theirs.encode(mixed).ids == tokenizer.encode(alphabet.encode(mixed)).tolist()
    framed = theirs.encode("<bos>" + mixed + "<eos><pad>").ids
    inner = tokenizer.encode(alphabet.encode(mixed)).tolist()
    assert framed == [tokenizer.bos, *inner, tokenizer.eos, tokenizer.pad]
    for letter in "X|-? \n":
        with pytest.raises(Exception, match=r"(?i)unk"):
            theirs.encode(f"ACGTACGT{letter}ACGTACGT")


@pytest.mark.parametrize("name", ["bpe", "text-bpe", "kmer6", "kmer6-overlap"])
def test_hugging_face_tools_cut_long_stretches_as_we_do(name, tmp_path):
    tokenizer = ALL[name]
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    if tokenizer.text:
        text = TEXT.decode().replace("<pad>", "") * 10
        ours = tokenizer.encode(np.frombuffer(text.encode(), np.uint8))
    else:
        codes = h_pylori()[:30_000]
        codes[7_000:7_010] = N
        text, ours = letters(codes), tokenizer.encode(codes)
    assert len(text) > 3 * pieces.PIECE
    assert theirs.encode(text).ids == ours.tolist()


@every
def test_what_transformers_needs_is_beside_the_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    for role in ("pad", "bos", "eos"):
        assert tokenizer.vocabulary.index(config[f"{role}_token"]) == getattr(tokenizer, role)


def cut_short(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-100])


def change_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"A"', '"Z"', 1))


def change_settings(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"kind": "kmer"', '"kind": "byte"').replace('"text": false', '"text": 1'))


def lose_settings(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def lose_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def make_foreign(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def make_nonsense(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    "damage",
    [cut_short, change_vocabulary, change_settings, lose_settings, lose_tokenizer, make_foreign, make_nonsense],
)
@pytest.mark.parametrize("name", ["kmer3", "bpe"])
def test_a_file_that_was_changed_is_refused(damage, name, tmp_path):
    path = tmp_path / "tokenizer.json"
    ALL[name].save(path)
    load_tokenizer(path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_tokenizer(path)


# ---------------------------------------------------------------------------------------------- learning


def test_learning_is_deterministic_and_compresses():
    genome = h_pylori()
    config = TokenizerConfig(kind="bpe", vocab_size=600, sample=100_000)
    parts = [genome[:30_000], genome[30_000:90_000], genome[90_000:200_000]]
    one, two = (learn_bpe(iter(parts), config, text=False) for _ in range(2))
    assert one.vocabulary == two.vocabulary
    assert one.vocab_size == 600
    assert one.vocabulary[:5] == ("A", "C", "G", "T", "N")
    assert one.vocabulary[-3:] == ("<pad>", "<bos>", "<eos>")
    tokens = one.encode(genome)
    assert tokens.tolist() == two.encode(genome).tolist()
    assert len(genome) > 3 * len(tokens)


def test_only_the_sample_is_learned_from():
    genome = h_pylori()

    def unread():
        yield genome[:5_000]
        raise AssertionError("read beyond the sample")

    config = TokenizerConfig(kind="bpe", vocab_size=64, sample=4_000)
    assert learn_bpe(unread(), config, text=False).vocabulary == learn_bpe([genome[:4_000]], config, False).vocabulary


def test_learned_pieces_hold_no_n():
    codes = h_pylori()[:20_000].copy()
    codes[::7] = N
    codes[5_000:6_000] = N
    tokenizer = learn_bpe([codes], TokenizerConfig(kind="bpe", vocab_size=100), text=False)
    assert [word for word in tokenizer.vocabulary if "N" in word] == ["N"]


def test_text_pieces_are_learned_within_words():
    words = [word for word in ALL["text-bpe"].vocabulary[256:-3] if len(word) > 1]
    assert len(words) > 30
    assert not [word for word in words if "Ġ" in word.lstrip("Ġ")]


@pytest.mark.parametrize(
    ("parts", "text"),
    [([], False), ([], True), ([b"\0"], False), ([b"\4" * 2_000], False), ([b"a"], True), ([b"\xff" * 2_000], True)],
    ids=["no bases", "no text", "one base", "only N", "one letter", "no UTF-8"],
)
def test_nothing_to_learn_from_is_an_error(parts, text):
    with pytest.raises(ValueError, match="learn"):
        learn_bpe([np.frombuffer(part, np.uint8) for part in parts], TokenizerConfig(kind="bpe"), text)


def test_a_text_vocabulary_holds_at_least_the_bytes():
    with pytest.raises(ValueError, match=r"vocab_size is 259"):
        learn_bpe([np.frombuffer(TEXT, np.uint8)], TokenizerConfig(kind="bpe", vocab_size=259), text=True)


def test_pieces_must_be_learned_or_given():
    with pytest.raises(ValueError, match="learned"):
        make_tokenizer(TokenizerConfig(kind="bpe"))


@pytest.mark.parametrize("block", [1, 2, 7])
@given(parts=st.lists(st.one_of(st.text().map(str.encode), st.binary()), max_size=5))
@settings(deadline=None, max_examples=50)
def test_text_is_cut_the_same_in_any_blocks(block, parts):
    raw = np.frombuffer(b"".join(parts), np.uint8)
    whole = list(pieces._text_pieces(raw))
    assert "".join(whole).encode("utf-8", "surrogateescape") == raw.tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_BLOCK", block)
        assert list(pieces._text_pieces(raw)) == whole


# --------------------------------------------------------------------------------- somebody's tokenizer


def bert_like(vocab_size: int = 100) -> tokenizers.Tokenizer:
    """A BPE of DNA as genome language models publish it: special tokens first, wrapped in [CLS] and [SEP]."""
    theirs = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, special_tokens=special)
    sequence = letters(h_pylori()[:20_000])
    theirs.train_from_iterator([sequence[i : i + 500] + " NNN" for i in range(0, len(sequence), 500)], trainer)
    theirs.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return theirs


def gpt_like(prefix_space: bool = False) -> tokenizers.Tokenizer:
    """A byte-level BPE with one special token, as GPT-2 has it."""
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    theirs.train_from_iterator([TEXT.decode()], trainer)
    return theirs


def given_path(theirs: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    theirs.save(str(folder / "tokenizer.json"))
    return make_tokenizer(TokenizerConfig(kind="bpe", path=folder / "tokenizer.json"))


def test_a_published_dna_tokenizer_is_read(tmp_path):
    theirs = bert_like()
    ours = given_path(theirs, tmp_path)
    assert not ours.text
    assert ours.vocabulary == tuple(theirs.id_to_token(i) for i in range(100))
    assert [ours.vocabulary[token] for token in (ours.pad, ours.bos, ours.eos)] == ["[PAD]", "[CLS]", "[SEP]"]
    assert np.flatnonzero(ours.bases == 0).tolist() == [0, 1, 2, 3, 4]
    assert not any(ours.scored[i] for i, word in enumerate(ours.vocabulary) if "N" in word)
    codes = h_pylori()[30_000:34_000]
    codes[1_000:1_020] = N
    assert ours.encode(codes).tolist() == theirs.encode(letters(codes)).ids[1:-1]
    assert ours.decode(ours.encode(codes)).tolist() == codes.tolist()


def test_a_published_text_tokenizer_is_read(tmp_path):
    theirs = gpt_like()
    ours = given_path(theirs, tmp_path)
    assert ours.text
    assert ours.vocabulary[ours.eos] == "<|endoftext|>"
    assert {ours.pad, ours.bos} == {300, 301}
    assert ours.encode(np.frombuffer(TEXT, np.uint8)).tolist() == theirs.encode(TEXT.decode()).ids
    raw = b"\xff<|endoftext|>\xc3" + bytes(range(256))
    tokens = ours.encode(np.frombuffer(raw, np.uint8))
    assert ours.bases[tokens].all()
    assert ours.decode(tokens).tobytes() == raw
    saved = tmp_path / "store" / "tokenizer.json"
    ours.save(saved)
    again = load_tokenizer(saved)
    assert (again.pad, again.bos, again.eos) == (ours.pad, ours.bos, ours.eos)
    assert again.encode(np.frombuffer(raw, np.uint8)).tolist() == tokens.tolist()


def with_additions(theirs: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same with what is no part of how a text becomes tokens here, and would change them."""
    theirs.add_special_tokens(["<s>", "</s>", "<|fim|>"])
    theirs.add_tokens(["  ", "    ", "genome", "\n", "\U0001f9ec"])
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, theirs.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    theirs.enable_truncation(50)
    theirs.enable_padding(length=100, pad_token="</s>", pad_id=theirs.token_to_id("</s>"))
    return theirs


@pytest.mark.parametrize("case", ["byte-level", "SentencePiece", "SentencePiece, Metaspace"])
def test_transformers_encode_as_a_model_was_trained(case, tmp_path):
    theirs = with_additions(gpt_like() if case == "byte-level" else sentencepiece(metaspace="Metaspace" in case))
    if case == "byte-level":
        theirs.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ours = given_path(theirs, tmp_path)
    ours.save(tmp_path / "store" / "tokenizer.json")
    exported = AutoTokenizer.from_pretrained(tmp_path / "store")
    again = load_tokenizer(tmp_path / "store" / "tokenizer.json")
    assert again.vocabulary == ours.vocabulary
    assert all(again.vocabulary[token] == word for word, token in theirs.get_vocab().items())
    assert again.bases.tolist() == ours.bases.tolist()
    for text in ("The  Genome    of\n\n \ufb01ne H. Pylori <|fim|> genome \U0001f9ec", "x", " a" * 5_000, "ab" * 5_000):
        tokens = ours.encode(np.frombuffer(text.encode(), np.uint8)).tolist()
        assert exported(text).input_ids == tokens
        assert again.encode(np.frombuffer(text.encode(), np.uint8)).tolist() == tokens
        assert exported.decode(tokens) == text


def test_a_published_dna_tokenizer_is_saved_as_it_is_used(tmp_path):
    ours = given_path(bert_like(), tmp_path)
    ours.save(tmp_path / "store" / "tokenizer.json")
    assert load_tokenizer(tmp_path / "store" / "tokenizer.json").vocabulary == ours.vocabulary
    bases = letters(h_pylori()[30_000:40_000])
    exported = AutoTokenizer.from_pretrained(tmp_path / "store")
    assert exported(bases.lower()).input_ids == ours.encode(alphabet.encode(bases)).tolist()


def test_an_added_token_that_is_also_learned_is_text(tmp_path):
    theirs = gpt_like()
    word = next(word for word, token in theirs.get_vocab().items() if token > 256 and len(word) > 1 and word.isascii())
    theirs.add_tokens([word])
    ours = given_path(theirs, tmp_path)
    raw = np.frombuffer(f"{word} {word}".encode(), np.uint8)
    assert ours.decode(ours.encode(raw)).tobytes() == raw.tobytes()


def test_too_many_tokens_are_said_to_be_too_many(tmp_path):
    words = [*"ACGTN", *(f"A{i}" for i in range(1 << 16))]
    theirs = tokenizers.Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    with pytest.raises(ValueError, match=r"65,544 tokens are too many; at most 65,536"):
        given_path(theirs, tmp_path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_special_tokens_can_be_named_beside_the_file(wrapped, tmp_path):
    name = {"content": "[MASK]"} if wrapped else "[MASK]"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": name, "bos_token": None}))
    ours = given_path(bert_like(), tmp_path)
    assert [ours.vocabulary[token] for token in (ours.pad, ours.bos, ours.eos)] == ["[PAD]", "[CLS]", "[MASK]"]


def unfit() -> dict[str, tuple[tokenizers.Tokenizer, str]]:
    """Tokenizers that cannot be used, and what the message says."""
    prefixed = gpt_like(prefix_space=True)
    dropping = bert_like()
    dropping.model.dropout = 0.1
    marked = tokenizers.Tokenizer(models.BPE(vocab={"A": 0}, merges=[], end_of_word_suffix="</w>"))
    gapped = tokenizers.Tokenizer(models.BPE(vocab={"A": 0, "C": 1, "G": 2, "T": 3, "N": 9}, merges=[]))
    small = tokenizers.Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate("acgtn")}, merges=[]))
    small.normalizer = normalizers.Lowercase()
    without_n = tokenizers.Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate("ACGT")}, merges=[]))
    words = tokenizers.Tokenizer(models.WordLevel(vocab={"A": 0, "<unk>": 1}, unk_token="<unk>"))
    letters_lost = tokenizers.Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate("ACGTN")}, merges=[]))
    letters_lost.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("N")
    return {
        "prefix space": (prefixed, "give back"),
        "dropout": (dropping, "dropout"),
        "word ends": (marked, "marks"),
        "gaps": (gapped, "without gaps"),
        "lower case": (small, "'a' is not spelled"),
        "no N": (without_n, "no token for N"),
        "WordLevel": (words, "WordLevel"),
        "loses N": (letters_lost, "give back"),
    }


@pytest.mark.parametrize("case", unfit())
def test_a_tokenizer_that_does_not_fit_is_refused(case, tmp_path):
    theirs, message = unfit()[case]
    with pytest.raises(ValueError, match=message) as caught:
        given_path(theirs, tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 3}', "\0"])
def test_no_tokenizer_at_all_is_refused(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        make_tokenizer(TokenizerConfig(kind="bpe", path=path))


def test_a_damaged_file_of_names_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("[1")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        given_path(bert_like(), tmp_path)
