"""The decode backend: token by token the oracle's values, and a clear answer to whose tensors are written to."""

from itertools import pairwise

import pytest
import torch
from test_memory import assert_same, make

from titans_genomics.ops import causal_convolution, neural_memory, picked_backend


def streamed(tokens, weights, surprise, pieces, **options):
    """Outputs and end state of a stream without gradients; `pieces` as in split."""
    state, ys = None, []
    with torch.no_grad():
        for part in zip(*(x.split(pieces, dim=1) for x in tokens), strict=True):
            held = (weights, surprise) if state is None else (state.weights, state.surprise)
            more = {} if state is None else {"anchor": state.anchor, "offset": state.offset}
            y, state = neural_memory(*part, *held, **more, **options)
            ys.append(y)
    return [torch.cat(ys, dim=1), *state.weights, *state.surprise, *state.anchor]


def test_tokens_of_one_sequence_are_one_chunk_at_a_time():
    """The state's offset runs through the chunk and the anchor changes at its border only."""
    tokens, weights, surprise = make(T=9)
    state, anchors = None, []
    for t in range(9):
        part = [x[:, t : t + 1] for x in tokens]
        if state is None:
            _, state = neural_memory(*part, weights, surprise, chunk=4, backend="decode")
        else:
            _, state = neural_memory(
                *part, state.weights, state.surprise, 4, "decode", anchor=state.anchor, offset=state.offset
            )
        assert state.offset == (t + 1) % 4
        anchors.append(state.anchor[0].clone())
    changed = [not torch.equal(a, b) for a, b in pairwise(anchors)]
    assert [t + 1 for t, change in enumerate(changed) if change] == [3, 7]


@pytest.mark.parametrize("backend", ["decode", "auto"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 64, 128])
def test_token_by_token_is_the_oracle(backend, depth, chunk):
    inputs = make(T=135 if chunk == 128 else 70, depth=depth, B=1 if chunk == 128 else 2)
    length = inputs[0][0].shape[1]
    wanted = streamed(*inputs, length, chunk=chunk, backend="reference")
    assert_same(streamed(*inputs, 1, chunk=chunk, backend=backend), wanted, 1e-12)
    single = [[x.float() for x in xs] for xs in inputs]
    found = streamed(*single, 1, chunk=chunk, backend=backend)
    assert_same([x.double() for x in found], wanted, 1e-4)


@pytest.mark.parametrize("pieces", [[5, 1, 1, 3, 20, 10], [39, 1], 2])
def test_pieces_of_several_tokens(pieces):
    inputs = make()
    wanted = streamed(*inputs, 40, chunk=7, backend="reference")
    assert_same(streamed(*inputs, pieces, chunk=7, backend="decode"), wanted, 1e-12)


@pytest.mark.parametrize("gate", [3, 4, 5])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gates_at_their_ends(gate, value):
    inputs = make(T=20)
    inputs[0][gate].fill_(value if gate < 5 else 0.05 * value)
    wanted = streamed(*inputs, 20, chunk=8, backend="reference")
    assert_same(streamed(*inputs, 1, chunk=8, backend="decode"), wanted, 1e-12)


@pytest.mark.parametrize("first", ["chunked", "reference", "decode", "auto"])
@pytest.mark.parametrize("then", ["chunked", "reference", "decode", "auto"])
def test_backends_take_over_from_each_other(first, then):
    """The state that the first leaves stays what it is, unless both are decode, which uses it up."""
    tokens, weights, surprise = make(T=16)
    wanted = streamed(tokens, weights, surprise, 16, chunk=5, backend="reference")
    with torch.no_grad():
        y, state = neural_memory(*(x[:, :7] for x in tokens), weights, surprise, 5, first)
        held = [x.clone() for xs in state[:3] for x in xs]
        ys = [y]
        after = state
        for t in range(7, 16):
            part = (x[:, t : t + 1] for x in tokens)
            y, after = neural_memory(
                *part, after.weights, after.surprise, 5, then, anchor=after.anchor, offset=after.offset
            )
            ys.append(y)
    assert_same([torch.cat(ys, 1), *after.weights, *after.surprise, *after.anchor], wanted, 1e-11)
    kept = all(torch.equal(a, b) for a, b in zip(held, [x for xs in state[:3] for x in xs], strict=True))
    assert kept == ((first, then) != ("decode", "decode"))


def test_what_other_backends_made_of_a_decode_state_outlives_it():
    """Chunked and auto return the old weights as anchor; going on with decode must not change these."""
    tokens, weights, surprise = make(T=8)
    with torch.no_grad():
        _, state = neural_memory(*(x[:, :4] for x in tokens), weights, surprise, 4, "decode")
        branches = []
        for backend in ("chunked", "auto"):
            part = (x[:, 4:5] for x in tokens)
            branches.append(neural_memory(*part, state.weights, state.surprise, 4, backend, anchor=state.anchor)[1])
        held = [[x.clone() for x in branch.anchor] for branch in branches]
        neural_memory(*(x[:, 4:] for x in tokens), state.weights, state.surprise, 4, "decode", anchor=state.anchor)
    for branch, copies in zip(branches, held, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(branch.anchor, copies, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_parameters_and_views_of_them_are_never_written_to(mode):
    """The learned M_0 comes as a view that shares the parameter's memory, for one batch row as for many."""
    for rows in (1, 3):
        tokens, weights, _ = make(B=rows, T=6, dtype=torch.float32)
        learned = [torch.nn.Parameter(w[0].clone()) for w in weights]
        before = [w.detach().clone() for w in learned]
        with mode():
            held = [w.expand(rows, *w.shape) for w in learned]
            y, state = neural_memory(*(x[:, :1] for x in tokens), held, chunk=4, backend="decode", anchor=held)
            for t in range(1, 6):
                part = (x[:, t : t + 1] for x in tokens)
                y, state = neural_memory(
                    *part, state.weights, state.surprise, 4, "decode", anchor=state.anchor, offset=state.offset
                )
        assert all(torch.equal(a, b) for a, b in zip(learned, before, strict=True))
        copies = [w.expand(rows, *w.shape).clone() for w in before]
        wanted, _ = neural_memory(*tokens, copies, chunk=4, backend="reference")
        torch.testing.assert_close(y, wanted[:, 5:], rtol=1e-4, atol=1e-5)


def test_a_state_of_inference_mode_goes_on_outside_of_it():
    tokens, weights, surprise = make(T=2)
    with torch.inference_mode():
        _, state = neural_memory(*(x[:, :1] for x in tokens), weights, surprise, 4, "decode")
    _, after = neural_memory(
        *(x[:, 1:] for x in tokens), state.weights, state.surprise, 4, "decode", anchor=state.anchor, offset=1
    )
    wanted = streamed(tokens, weights, surprise, 2, chunk=4, backend="reference")
    assert_same([*after.weights, *after.surprise], wanted[1:5], 1e-12)


def test_no_gradients():
    tokens, weights, surprise = make(T=1)
    weights = [w.requires_grad_() for w in weights]
    with pytest.raises(ValueError, match=r"^backend must not be 'decode'.*no_grad"):
        neural_memory(*tokens, weights, surprise, backend="decode")
    with torch.no_grad():
        neural_memory(*tokens, weights, surprise, backend="decode")


def test_auto_says_what_it_picks():
    tokens, weights, _ = make(T=3)
    assert picked_backend(tokens[0], weights) == "chunked"
    assert picked_backend(tokens[0][:, :1], weights) == "decode"
    assert picked_backend(tokens[0][:, :1], weights, learning=True) == "chunked"
    weights = [w.requires_grad_() for w in weights]
    assert picked_backend(tokens[0][:, :1], weights) == "chunked"
    with torch.no_grad():
        assert picked_backend(tokens[0][:, :1], weights) == "decode"


def test_the_convolution_of_one_token():
    """The short way without gradients gives what the long way gives."""
    x, weight = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    long = causal_convolution(x, weight)
    with torch.no_grad():
        torch.testing.assert_close(causal_convolution(x, weight), long)
