"""The loss of next-token training, and what it is counted over.

Axes: B windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_genomics.data.vocabulary import Tokenizer

BASES = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
"""Bases that each token stands for where it is scored: of nucleotides A, C, G and T are."""


def scored_bases(tokenizer: Tokenizer) -> Tensor:
    """Bases (bytes of text) that each token of a vocabulary newly stands for, 0 for those that are not scored: (V,) float32."""
    return torch.from_numpy(np.where(tokenizer.scored, tokenizer.bases, 0)).float()


def next_token_nll(logits_BTV: Tensor, targets_BT: Tensor, bases_V: Tensor = BASES) -> Tensor:
    """Negative log-likelihood of each target, natural log, (B, T) float32; 0 for targets that are not scored."""
    targets = targets_BT.masked_fill(bases_V.to(targets_BT.device)[targets_BT] == 0, -100)
    return F.cross_entropy(logits_BTV.float().transpose(1, 2), targets, ignore_index=-100, reduction="none")
