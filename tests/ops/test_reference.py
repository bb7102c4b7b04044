"""The oracle against a case worked out by hand."""

import torch

from titans_genomics.ops import neural_memory


def scalar(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)


def test_two_tokens_by_hand():
    """Linear memory of width 1, chunk 1.

    Token 1: M = 0.5, k = 1, v = 1: u = 2 (0.5 - 1) = -1; S = 0.5 * 0.2 + 0.1 = 0.2; M = 0.9 * 0.5 + 0.2 = 0.65; y = 2 * 0.65.
    Token 2: k = 2, v = 0: error 1.3, u = 2 * 1.3 * 2 = 5.2; S = 0.25 * 0.2 - 0.05 * 5.2 = -0.21; M = 0.8 * 0.65 - 0.21 = 0.31; y = 0.31.
    """
    q, k, v = scalar(2.0, 1.0), scalar(1.0, 2.0), scalar(1.0, 0.0)
    alpha, eta, theta = (scalar(*x)[..., 0] for x in ((0.1, 0.2), (0.5, 0.25), (0.1, 0.05)))
    weights, surprise = [scalar(0.5)], [scalar(0.2)]
    for backend in ("reference", "chunked"):
        y, state = neural_memory(q, k, v, alpha, eta, theta, weights, surprise, chunk=1, backend=backend)
        torch.testing.assert_close(y, scalar(1.3, 0.31))
        torch.testing.assert_close(state.weights[0], scalar(0.31))
        torch.testing.assert_close(state.surprise[0], scalar(-0.21))


def test_two_tokens_of_one_chunk_by_hand():
    """As above, but token 2 takes its gradient at M = 0.5 too: error 1.0, u = 4; S = 0.05 - 0.2 = -0.15; M = 0.52 - 0.15 = 0.37."""
    q, k, v = scalar(2.0, 1.0), scalar(1.0, 2.0), scalar(1.0, 0.0)
    alpha, eta, theta = (scalar(*x)[..., 0] for x in ((0.1, 0.2), (0.5, 0.25), (0.1, 0.05)))
    for backend in ("reference", "chunked"):
        y, _ = neural_memory(q, k, v, alpha, eta, theta, [scalar(0.5)], [scalar(0.2)], chunk=2, backend=backend)
        torch.testing.assert_close(y, scalar(1.3, 0.37))
