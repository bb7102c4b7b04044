"""generate(): the state as its cache gives what reading everything again gives; padding is never read."""

import copy

import pytest
import torch

from titans_genomics.hf import TitansCache, TitansForCausalLM
from titans_genomics.models import LanguageModel

CLOSE = {"atol": 1e-5, "rtol": 0}


def alone(tokens, mask):
    """Each row without its padding, (1, t)."""
    return [row[real == 1][None] for row, real in zip(tokens, mask, strict=True)]


@torch.no_grad()
def test_logits_from_the_cache_are_those_of_one_pass(variant, build):
    model = build(variant)
    x = torch.randint(2, 20, (3, 30))
    whole = model(x, use_cache=False).logits
    cache, parts = None, []
    for piece in x.split([7, 1, 1, 13, 1, 7], dim=1):
        output = model(piece, cache=cache)
        cache = output.cache
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
    assert (cache.get_seq_length(), cache.batch_size, len(cache.parts)) == (30, 3, 1)


@torch.no_grad()
def test_a_left_padded_batch_decodes_as_its_rows_alone(variant, build, prompts):
    model, (tokens, mask) = build(variant), prompts
    following = torch.randint(2, 20, (4, 20))
    output = model(tokens, attention_mask=mask)
    found, cache = [output.logits[:, -1:]], output.cache
    # one by one, several at once where rows are at different places of their chunks, one by one again
    for t, piece in enumerate(following.split([1] * 9 + [5] + [1] * 6, dim=1)):
        longer = torch.cat([mask, mask.new_ones(4, cache.length - 23 + piece.shape[1])], 1)
        found.append(model(piece, cache=cache, attention_mask=longer if t % 2 else None).logits)
    for row, prompt in enumerate(alone(tokens, mask)):
        own = model(torch.cat([prompt, following[row : row + 1]], 1), use_cache=False).logits
        torch.testing.assert_close(torch.cat(found, 1)[row : row + 1], own[:, prompt.shape[1] - 1 :], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2, 4, 64])
def test_rows_at_different_places_of_a_chunk_decode_as_one(build, prompts, chunk):
    model, (tokens, mask) = build("lmm", chunk=chunk), prompts
    batches = []
    read = LanguageModel.read

    def counted(self, x, state=None):
        batches.append(x.shape[0])
        return read(self, x, state)

    cache = model(tokens, attention_mask=mask).cache
    model.model.core.read = counted.__get__(model.model.core)
    model.generate(tokens, attention_mask=mask, max_new_tokens=10, do_sample=False)
    assert batches[-9:] == [4] * 9
    assert len(cache.parts) == 1


@torch.no_grad()
def test_states_of_windows_that_are_full_become_one(build, prompts):
    model, (tokens, mask) = build("transformer"), prompts
    cache = model(tokens, attention_mask=mask).cache
    assert [part.rows for part in cache.parts] == [[3], [0, 1, 2]]  # 3 tokens in a window of 6
    model(torch.full((4, 3), 5), cache=cache)
    assert [part.rows for part in cache.parts] == [[0, 1, 2, 3]]


@torch.no_grad()
def test_what_stands_in_the_padding_changes_nothing(variant, build, prompts):
    model, (tokens, mask) = build(variant), prompts
    for use_cache in (True, False):
        first = model(tokens, attention_mask=mask, use_cache=use_cache).logits
        other = model(tokens + 7 * (1 - mask), attention_mask=mask, use_cache=use_cache).logits
        assert torch.equal(first[mask == 1], other[mask == 1])


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_padding_may_be_anywhere(variant, build, use_cache):
    model = build(variant)
    x = torch.randint(2, 20, (2, 20))
    mask = torch.ones_like(x)
    mask[0, [0, 3, 4, 9, 18, 19]] = 0
    mask[1, 15:] = 0
    found = model(x, attention_mask=mask, use_cache=use_cache).logits
    for row, prompt in enumerate(alone(x, mask)):
        torch.testing.assert_close(found[row][mask[row] == 1], model(prompt).logits[0], **CLOSE)


@pytest.mark.parametrize(
    "how",
    [{"do_sample": False}, {"do_sample": True, "top_k": 5, "top_p": 0.9}, {"do_sample": False, "num_beams": 3}],
    ids=["greedy", "sampled", "beams"],
)
def test_generate_with_and_without_the_cache(variant, build, prompts, how):
    model, (tokens, mask) = build(variant), prompts
    found = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        found.append(model.generate(tokens, attention_mask=mask, max_new_tokens=10, use_cache=use_cache, **how))
    assert torch.equal(*found)
    assert found[0].shape == (4, 33)
    assert len({tuple(row) for row in found[0][:, 23:].tolist()}) > 1


@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_greedy_is_the_likeliest_token_each_time(variant, build, prompts):
    model, (tokens, mask) = build(variant), prompts
    found = model.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False)
    for row, prompt in enumerate(alone(tokens, mask)):
        for _ in range(8):
            likeliest = model(prompt).logits[:, -1].argmax(-1, keepdim=True)
            prompt = torch.cat([prompt, likeliest], 1)
        assert prompt[0, -8:].tolist() == found[row, -8:].tolist()


@pytest.mark.parametrize("variant", ["lmm", "mag"])
def test_generation_goes_on_from_a_cache(variant, build):
    model = build(variant)
    x = torch.randint(2, 20, (2, 12))
    whole = model.generate(x, max_new_tokens=8, do_sample=False)
    first = model.generate(x, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    kept = copy.deepcopy(first.cache)
    for cache in (first.cache, kept):
        assert torch.equal(model.generate(first.sequences, cache=cache, max_new_tokens=4, do_sample=False), whole)


def test_a_cache_is_copied_whatever_its_history(variant, build):
    """Outside no_grad, too; the copy goes on as the cache does, and neither changes the other."""
    model, x = build(variant), torch.randint(2, 20, (2, 12))
    cache = model(x[:, :7]).cache
    kept = copy.deepcopy(cache)
    assert not any(leaf.requires_grad for _, leaf in kept.parts[0].state.leaves() if isinstance(leaf, torch.Tensor))
    found = model(x[:, 7:], cache=cache).logits
    assert (cache.length, kept.length) == (12, 7)
    torch.testing.assert_close(model(x[:, 7:], cache=kept).logits, found, **CLOSE)
    assert copy.deepcopy(type(cache)(4)).batch_size == -1


@pytest.mark.parametrize("variant", ["lmm", "mag"])
def test_a_prompt_may_be_read_in_pieces_or_given_as_embeddings(variant, build, prompts):
    model, (tokens, mask) = build(variant), prompts
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    whole = model.generate(tokens, **options)
    assert torch.equal(model.generate(tokens, prefill_chunk_size=7, **options), whole)
    embeddings = model.get_input_embeddings()(tokens)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), whole[:, 23:])


def test_the_state_does_not_grow(build):
    model = build("lmm")

    def size(tokens):
        cache = model.generate(torch.full((1, tokens), 3), max_new_tokens=5, return_dict_in_generate=True).cache
        return sum(leaf.numel() for _, leaf in cache.parts[0].state.leaves() if torch.is_tensor(leaf))

    assert size(3) == size(300)


@torch.no_grad()
def test_rows_of_a_cache_can_be_chosen_and_repeated(variant, build, prompts):
    model, (tokens, mask) = build(variant), prompts
    cache = model(tokens, attention_mask=mask).cache
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([7, 0, 5, 2, 2]))
    found = model(torch.full((5, 1), 4), cache=cache).logits
    rows = alone(tokens, mask)
    for place, row in enumerate([3, 0, 2, 1, 1]):
        own = model(torch.cat([rows[row], torch.full((1, 1), 4)], 1)).logits[:, -1:]
        torch.testing.assert_close(found[place : place + 1], own, **CLOSE)
    cache.reset()
    assert (cache.batch_size, cache.get_seq_length()) == (-1, 0)


def test_what_does_not_fit_is_said(build, prompts):
    model, (tokens, mask) = build("lmm"), prompts
    cache = model(tokens).cache
    with pytest.raises(ValueError, match="batch of 4, the input of 1"):
        model(tokens[:1], cache=cache)
    with pytest.raises(ValueError, match="must be a TitansCache"):
        model(tokens, cache=[1])
    with pytest.raises(ValueError, match="exactly one of"):
        model(tokens, inputs_embeds=torch.zeros(4, 23, 16))
    with pytest.raises(ValueError, match=r"attention_mask must be \(4, 23 or more\)"):
        model(tokens, attention_mask=mask[:, :-1])
    with pytest.raises(ValueError, match="every token of the input is padding"):
        model(tokens, attention_mask=torch.zeros_like(mask))
    with pytest.raises(ValueError, match="T > 0"):
        model(tokens[:, :0])
    with pytest.raises(ValueError, match="cannot be taken back"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="does not grow"):
        model.generate(tokens, cache_implementation="static")
    with pytest.raises(ValueError, match="stateful"):
        model.generate(tokens[:1], assistant_model=model)
    assert isinstance(model, TitansForCausalLM)
    assert isinstance(cache, TitansCache)
