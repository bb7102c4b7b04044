"""Networks that give one answer per sequence: a language model with a head over its pooled states, and a small CNN.

Axes: B sequences, T tokens (padded at the right), D model width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_genomics.models.titans import LanguageModel

Pooling = Literal["mean", "last"]

CNN_SHORTEST = 57
"""Bases that leave one column after the CNN's three blocks."""


def pool(hidden_BTD: Tensor, lengths_B: Tensor, pooling: Pooling) -> Tensor:
    """One vector per sequence, (B, D) of the dtype of the states: those behind a sequence's own length never count.

    Parameters
    ----------
    hidden_BTD : (B, T, D) floating point, states of sequences that begin at token 0
    lengths_B : (B,) int64, tokens of each, from 1 to T
    pooling : "last", the state after the whole sequence was read, or "mean", that over its tokens
    """
    if pooling == "last":
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), lengths_B - 1]
    inside = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) < lengths_B[:, None]
    return hidden_BTD.masked_fill(~inside[..., None], 0).sum(1) / lengths_B[:, None].to(hidden_BTD.dtype)


class Network(nn.Module):
    """What `Classifier` and `CNN` share: ``forward(tokens_BT, lengths_B) -> (B, outputs) float32``.

    Outputs are logits; of regression they are targets in units of the training targets' spread, and `values` undoes that.

    Attributes
    ----------
    center, scale : (outputs,) float32
        Mean and standard deviation of the training targets of a regression; 0 and 1 elsewhere.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def standardise(self, targets_BO: Tensor) -> None:
        """Take center and scale from the training targets (B, outputs); an output that never varies has scale 1."""
        spread, mean = torch.std_mean(targets_BO.double(), dim=0, correction=0)
        self.center.copy_(mean)
        self.scale.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def values(self, outputs_BO: Tensor) -> Tensor:
        """Outputs in the units of the targets, float32."""
        return outputs_BO * self.scale + self.center

    def no_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        raise NotImplementedError


class Classifier(Network):
    """A language model, whose own head over the vocabulary is taken off, and a linear head over its pooled states.

    Every sequence begins with an empty memory. Models are causal and sequences are padded at the right, so padding is read
    after a sequence's last token and changes none of its states.

    Parameters
    ----------
    backbone : LanguageModel
    outputs : int
        Classes, labels or regression targets.
    pooling : "mean" or "last"
        How per-token states become one vector (`pool`).
    dropout : float
        Of the vector, in training.
    """

    def __init__(self, backbone: LanguageModel, outputs: int, pooling: Pooling, dropout: float = 0.0) -> None:
        super().__init__(outputs)
        self.backbone = backbone
        self.backbone.head = nn.Identity()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.config.d_model, outputs)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        hidden, _ = self.backbone.embed(tokens_BT)
        return self.head(self.dropout(pool(hidden.float(), lengths_B, self.pooling))).float()

    def no_decay(self) -> set[str]:
        return {f"backbone.{name}" for name in self.backbone.no_decay()} | {"head.bias"}


class CNN(Network):
    """The convolutional baseline of GenomicBenchmarks (doi:10.1186/s12863-023-01123-8).

    Bases (A C G T N and padding) as vectors of width 100, three blocks of convolution (16, 8, 4 filters of width 8), batch
    normalisation and max-pooling by 2, ReLU in the first alone, then two dense layers (512, outputs) without a
    non-linearity between them. It reads base codes, on the strand given, of one fixed length.

    Parameters
    ----------
    length : int
        Bases: shorter sequences are padded, longer ones cut. Less than `CNN_SHORTEST` is raised to that.
    outputs : int
        Classes, labels or regression targets. Two classes have two outputs, where the authors have one and a sigmoid.
    """

    PADDING = 5

    def __init__(self, length: int, outputs: int) -> None:
        super().__init__(outputs)
        self.length = max(length, CNN_SHORTEST)
        self.embedding = nn.Embedding(self.PADDING + 1, 100)
        self.features = nn.Sequential(
            *(nn.Conv1d(100, 16, 8), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(16, 8, 8), nn.BatchNorm1d(8), nn.MaxPool1d(2)),
            *(nn.Conv1d(8, 4, 8), nn.BatchNorm1d(4), nn.MaxPool1d(2)),
            nn.Flatten(),
        )
        columns = self.length
        for _ in range(3):
            columns = (columns - 7) // 2
        self.dense = nn.Sequential(nn.Linear(4 * columns, 512), nn.Linear(512, outputs))

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        outside = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) >= lengths_B[:, None]
        codes = tokens_BT.masked_fill(outside, self.PADDING)[:, : self.length]
        codes = F.pad(codes, (0, self.length - codes.shape[1]), value=self.PADDING)
        return self.dense(self.features(self.embedding(codes).transpose(1, 2))).float()

    def no_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters()}
