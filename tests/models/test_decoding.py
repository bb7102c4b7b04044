"""One token at a time takes shorter ways through the mixers: the same outputs, states and gradients as all tokens at once."""

import pytest
import torch

from titans_genomics.models import Titans, TitansConfig, attention

SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6, "persistent": 3}
VARIANTS = ["lmm", "mac", "mag", "mal", "transformer"]


def build(variant, **changes):
    torch.manual_seed(0)
    model = Titans(TitansConfig(variant=variant, **{**SMALL, **changes}))
    with torch.no_grad():  # away from the gates' starting point
        for name, parameter in model.named_parameters():
            if name.endswith("to_gates.weight"):
                parameter.mul_(10)
    return model


def tokens(batch, count=30):
    return torch.randint(0, 8, (batch, count), generator=torch.Generator().manual_seed(1))


def singly(model, ids, state=None):
    """Logits of tokens that are read one at a time, and the state after them."""
    logits = []
    for part in ids.split(1, dim=1):
        y, state = model(part, state)
        logits.append(y)
    return torch.cat(logits, dim=1), state


@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_in_float32_is_the_whole(variant, batch, persistent):
    """On a CPU the kernel for one token serves the memory of every variant, also that of MAC."""
    model, ids = build(variant, persistent=persistent).eval(), tokens(batch)
    with torch.inference_mode():
        whole, end = model(ids)
        found, state = singly(model, ids)
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
        for (name, a), (_, b) in zip(state.leaves(), end.leaves(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_single_tokens_are_those_of_the_whole(variant):
    model, ids = build(variant).double(), tokens(2, 14)
    gradients = []
    for logits in (model(ids)[0], singly(model, ids)[0]):
        loss = (logits * torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)).sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for (name, _), a, b in zip(model.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("variant", ["mac", "mag", "transformer"])
def test_keys_that_are_met_in_parts_give_the_whole(variant, monkeypatch):
    monkeypatch.setattr(attention, "KEYS", 4)
    model, ids = build(variant, window=19, segment=20).double().eval(), tokens(2, 45)
    with torch.no_grad():
        torch.testing.assert_close(singly(model, ids)[0], model(ids)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("variant", ["mac", "mag", "transformer"])
def test_decoding_writes_to_no_state_that_was_given(variant):
    """Two continuations of one state, as in a search, do not meet."""
    model, ids = build(variant).eval(), tokens(2)
    with torch.inference_mode():
        _, state = singly(model, ids)
        before = [(name, leaf.clone()) for name, leaf in state.leaves() if isinstance(leaf, torch.Tensor)]
        first, _ = singly(model, ids[:, :9], state)
        singly(model, ids[:, 9:], state)
        again, _ = singly(model, ids[:, :9], state)
        assert torch.equal(first, again)
        for (name, leaf), (_, kept) in zip(
            ((n, x) for n, x in state.leaves() if isinstance(x, torch.Tensor)), before, strict=True
        ):
            assert torch.equal(leaf, kept), name


@pytest.mark.parametrize("variant", ["mac", "mag", "transformer"])
def test_scores_are_not_rounded_to_bfloat16_one_at_a_time(variant):
    """Under autocast single tokens go through the fused attention, which adds up in float32, as many tokens do."""
    model, ids = build(variant).eval(), tokens(1)
    with torch.inference_mode():
        wanted, _ = model(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not attention.one_token(torch.zeros(1, 1, 16))
            found, _ = singly(model, ids)
    assert attention.one_token(torch.zeros(1, 1, 16))
    assert not attention.one_token(torch.zeros(1, 2, 16))
    assert not attention.one_token(torch.zeros(1, 1, 16, dtype=torch.bfloat16))
    assert (found - wanted).abs().max() < 0.1


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 8), (7, 1), (7, 2), (8, 1), (1_000_000, 3)])
def test_turns_are_cosines_and_sines_of_the_positions(first, count):
    half = 4
    cos, sin = attention.turns(first, count, half, torch.float64, torch.device("cpu"))
    assert cos.shape == sin.shape == (count, half)
    for i in range(count):
        for j in range(half):
            angle = torch.tensor((first + i) * 10_000.0 ** (-j / half), dtype=torch.float64)
            assert cos[i, j] == pytest.approx(angle.cos().item(), abs=1e-9)
            assert sin[i, j] == pytest.approx(angle.sin().item(), abs=1e-9)


def test_rotation_with_and_without_gradients_is_the_same():
    x = torch.randn(2, 3, 11, 8, dtype=torch.float64)
    turned = attention.rotate(x, 5)
    with torch.no_grad():
        torch.testing.assert_close(attention.rotate(x, 5), turned, rtol=0, atol=1e-14)
        periodic, part = attention.rotate(x[:, :, :4], 2, 4)[:, :, 2:], attention.rotate(x[:, :, 2:4], 0)
        torch.testing.assert_close(periodic, part, rtol=0, atol=1e-14)


def test_a_cache_is_copied_only_where_it_is_a_small_part():
    k = torch.randn(1, 2, 10, 4)
    most, few = (attention.KeyValueCache(k[:, :, start:], k[:, :, start:]).copy() for start in (1, 8))
    assert most.k.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    assert few.k.untyped_storage().nbytes() == few.k.nbytes
    assert torch.equal(few.k, k[:, :, 8:])
