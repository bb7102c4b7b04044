"""The diagonal recurrence: chunks against token by token, any pieces, extremes of the decays."""

import pytest
import torch

from titans_genomics.ops.scan import diagonal_scan, reference_scan


def make(B=2, T=40, C=5, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    log_decay = -torch.rand(B, T, C, generator=g, dtype=torch.float64).pow(3)
    x = torch.randn(B, T, C, generator=g, dtype=torch.float64)
    return [y.to(dtype) for y in (log_decay, x, torch.randn(B, C, generator=g, dtype=torch.float64))]


def outputs_and_gradients(function, inputs):
    """h, its last token and the gradients of a weighted sum of both for every input."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    h, state = function(*inputs)
    g = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)).sum() for x in (h, state))
    return [h.detach(), state.detach(), *torch.autograd.grad(loss, inputs)]


def oracle(log_decay, x, state):
    h = reference_scan(log_decay, x, state)
    return h, h[:, -1]


def assert_same(found, wanted, tolerance):
    for name, a, b in zip(("h", "end", "d_log_decay", "d_x", "d_state"), found, wanted, strict=True):
        torch.testing.assert_close(
            a.double(), b.double(), atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_three_tokens_by_hand():
    """h = 0.5 * 2 + 1 = 2; 0 * 2 + 3 = 3; 1 * 3 - 1 = 2."""
    log_decay = torch.tensor([0.5, 0.0, 1.0]).log().reshape(1, 3, 1)
    x = torch.tensor([1.0, 3.0, -1.0]).reshape(1, 3, 1)
    h, state = diagonal_scan(log_decay, x, torch.tensor([[2.0]]), chunk=2)
    assert h.flatten().tolist() == [2, 3, 2]
    assert state.tolist() == [[2]]


@pytest.mark.parametrize("T", [1, 2, 7, 40])
@pytest.mark.parametrize("chunk", [None, 1, 3, 40, 100])
@pytest.mark.parametrize("B", [1, 2])
def test_chunks_are_the_reference(T, chunk, B):
    inputs = make(B, T)
    wanted = outputs_and_gradients(oracle, inputs)
    assert_same(outputs_and_gradients(lambda *xs: diagonal_scan(*xs, chunk=chunk), inputs), wanted, 1e-12)


@pytest.mark.parametrize("log_decay", [0.0, -1e-7, -30.0, -1e4, -torch.inf])
@pytest.mark.parametrize("where", ["one", "all"])
def test_decays_at_their_ends(log_decay, where):
    """Finite, and the oracle's values and gradients, in float32 too."""
    inputs = make(T=300)
    inputs[0][:, 5 if where == "one" else slice(None)] = log_decay
    wanted = outputs_and_gradients(oracle, inputs)
    assert all(x.isfinite().all() for x in wanted)
    assert_same(outputs_and_gradients(diagonal_scan, inputs), wanted, 1e-11)
    assert_same(outputs_and_gradients(diagonal_scan, [x.float() for x in inputs]), wanted, 2e-4)


def test_derivatives():
    inputs = [x.requires_grad_() for x in make(T=7, C=2)]
    for chunk in (1, 3, 7):
        assert torch.autograd.gradcheck(lambda *xs, c=chunk: diagonal_scan(*xs, chunk=c, check=False), inputs)


def test_any_pieces_give_the_whole():
    log_decay, x, start = make()
    whole, end = diagonal_scan(log_decay, x, start)
    for cuts in ([1] * 40, [3, 17, 20], [39, 1]):
        state, parts = start, []
        for piece in zip(log_decay.split(cuts, dim=1), x.split(cuts, dim=1), strict=True):
            h, state = diagonal_scan(*piece, state)
            parts.append(h)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-12, rtol=0)
        torch.testing.assert_close(state, end, atol=1e-12, rtol=0)


def test_channels_rows_and_later_tokens_do_not_meet():
    log_decay, x, start = make()
    h, _ = diagonal_scan(log_decay, x, start)
    changed = x.clone()
    changed[0, 17, 2] += 1
    difference = diagonal_scan(log_decay, changed, start)[0] != h
    assert difference[0, 17:, 2].any()
    difference[0, 17:, 2] = False
    assert not difference.any()


@pytest.mark.parametrize(("B", "T"), [(1, 6), (2, 9), (1, 1)])
def test_inputs_are_left_as_they_are_and_the_state_stands_alone(B, T):
    inputs = make(B, T)
    before = [x.clone() for x in inputs]
    for chunk in (None, 1, T):
        _, state = diagonal_scan(*inputs, chunk=chunk)
        assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
        assert state.untyped_storage().nbytes() == state.nbytes


def test_half_precision_keeps_a_float32_state():
    log_decay, x, _ = make(dtype=torch.float32)
    h, state = diagonal_scan(log_decay, x.bfloat16())
    assert (h.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(h, diagonal_scan(log_decay, x.bfloat16().float())[0].bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 0, 5)}, "^x must be"),
        ({"log_decay": torch.zeros(2, 40)}, "^log_decay must be"),
        ({"state": torch.zeros(2, 4)}, "^state must be"),
        ({"chunk": 0}, "^chunk must"),
        ({"log_decay": torch.full((2, 40, 5), 0.1)}, r"^log_decay must be at most 0, found 0.1"),
        ({"log_decay": torch.full((2, 40, 5), torch.nan)}, "^log_decay must be at most 0, found nan"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = dict(zip(("log_decay", "x", "state"), make(dtype=torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        diagonal_scan(**{**arguments, **change})
