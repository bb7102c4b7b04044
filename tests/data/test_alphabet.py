from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from titans_genomics.data import alphabet
from titans_genomics.data.alphabet import decode, encode, reverse_complement

dna = st.text("ACGTN")
any_case = st.text("ACGTNacgtn")


def test_tokens_are_numbered_as_documented():
    assert encode("ACGTN").tolist() == [0, 1, 2, 3, 4]
    assert (alphabet.PAD, alphabet.BOS, alphabet.EOS, alphabet.VOCAB_SIZE) == (5, 6, 7, 8)
    assert len(alphabet.VOCABULARY) == alphabet.VOCAB_SIZE


@given(dna)
def test_decode_gives_back_what_was_encoded(sequence):
    assert decode(encode(sequence)) == sequence


@given(any_case)
def test_lower_case_is_the_same_base(sequence):
    assert encode(sequence.lower()).tolist() == encode(sequence).tolist() == encode(sequence.encode()).tolist()


def test_uracil_reads_as_thymine():
    assert decode(encode("ACGUu")) == "ACGTT"


@given(dna)
def test_reverse_complement_twice_is_the_identity(sequence):
    tokens = encode(sequence)
    assert reverse_complement(reverse_complement(tokens)).tolist() == tokens.tolist()


@given(st.lists(st.integers(0, 7), max_size=50), st.sampled_from([np.uint8, np.int64]))
def test_reverse_complement_is_the_same_in_numpy_and_torch(tokens, dtype):
    array = np.array(tokens, dtype=dtype)
    turned = reverse_complement(array)
    assert turned.dtype == dtype
    tensor = reverse_complement(torch.from_numpy(array))
    assert tensor.dtype == torch.from_numpy(array).dtype
    assert tensor.tolist() == turned.tolist()


def test_reverse_complement_of_a_batch_turns_each_row():
    batch = np.stack([encode("AACG"), encode("TTGN")])
    assert [decode(row) for row in reverse_complement(batch)] == ["CGTT", "NCAA"]


@given(st.text("ACGT"))
def test_reverse_complement_agrees_with_biopython(sequence):
    from Bio.Seq import Seq

    assert decode(reverse_complement(encode(sequence))) == str(Seq(sequence).reverse_complement())


def test_iupac_codes_become_n():
    assert decode(encode("ARYSWKMBDHVrn")) == "ANNNNNNNNNNNN"


@given(st.text("ACGTN" + "".join(alphabet.IUPAC), min_size=1), st.integers(0, 2**32))
def test_random_bases_are_among_those_the_code_allows(sequence, seed):
    drawn = decode(encode(sequence, iupac="random", rng=np.random.default_rng(seed)))
    again = decode(encode(sequence, iupac="random", rng=np.random.default_rng(seed)))
    assert drawn == again
    for code, base in zip(sequence, drawn, strict=True):
        assert base in alphabet.IUPAC.get(code, code)


def test_every_allowed_base_is_drawn():
    for code, allowed in alphabet.IUPAC.items():
        assert set(decode(encode(code * 200, iupac="random", rng=np.random.default_rng(0)))) == set(allowed)


def test_iupac_codes_can_be_an_error():
    with pytest.raises(ValueError, match=r"position 2.*'R'.*iupac"):
        encode("ACRT", iupac="error")
    assert decode(encode("ACNT", iupac="error")) == "ACNT"


@pytest.mark.parametrize("letter", ["E", "F", "I", "L", "P", "Q", "J", "O", "X", "Z", "*", "-", " ", "1", "é", "\0"])
def test_other_letters_are_errors_that_name_the_position(letter):
    with pytest.raises(ValueError, match="position 3"):
        encode("ACG" + letter + "A")


def test_soft_masked_bases_can_become_n():
    assert decode(encode("ACgtryAC", soft_mask="n")) == "ACNNNNAC"
    assert decode(encode("ACgtAC", soft_mask="ignore")) == "ACGTAC"
