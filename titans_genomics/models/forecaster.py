"""Forecasting with the blocks of any variant: patches of a series stand where tokens stood (PatchTST's way, arXiv 2211.14730).

Axes: B windows, L steps of the lookback, C columns, H steps of the horizon, R = B x C rows, N patches, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_genomics.models.titans import LanguageModel

EPSILON = 1e-5
"""Added to the variance of a window (RevIN)."""


class Forecaster(nn.Module):
    """A language model without vocabulary, read over the patches of each column by itself, and a linear head over its states.

    Columns are independent: each is a row of its own with the same weights. Patches end with the last step, so that steps that do
    not fill a stride are left out at the start. A patch is embedded by a linear map, and the head maps the states of all patches to
    all steps of the horizon at once.

    Parameters
    ----------
    backbone : LanguageModel
        Its embedding and head are taken off.
    lookback, horizon : int
        Steps read, L, and steps forecast, H.
    patch, stride : int
        Steps of a patch, and from one to the next; 1 <= stride <= patch <= lookback.
    revin : bool
        Each column of each window is read as (x - mean) / deviation of itself, and the forecast scaled back
        (reversible instance normalisation, without learned scales).
    """

    def __init__(
        self, backbone: LanguageModel, lookback: int, horizon: int, patch: int, stride: int, revin: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone.embedding = nn.Identity()
        self.backbone.head = nn.Identity()
        self.lookback, self.patch, self.stride, self.revin = lookback, patch, stride, revin
        self.patches = (lookback - patch) // stride + 1
        width = backbone.config.d_model
        self.embedding = nn.Linear(patch, width)
        self.head = nn.Linear(self.patches * width, horizon)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Forecast the steps behind a window.

        Parameters
        ----------
        x_BLC : (B, lookback, C) float32

        Returns
        -------
        (B, horizon, C) float32

        Raises
        ------
        ValueError
            When the windows have another length.
        """
        if x_BLC.dim() != 3 or x_BLC.shape[1] != self.lookback:
            raise ValueError(f"windows must be (B, {self.lookback}, C), got {tuple(x_BLC.shape)}")
        batch, _, columns = x_BLC.shape
        x_RL = x_BLC.transpose(1, 2).reshape(batch * columns, self.lookback)
        if self.revin:
            variance, mean = torch.var_mean(x_RL, dim=1, correction=0, keepdim=True)
            deviation = (variance + EPSILON).sqrt()
            x_RL = (x_RL - mean) / deviation
        used = (self.patches - 1) * self.stride + self.patch
        x_RNP = x_RL[:, self.lookback - used :].unfold(1, self.patch, self.stride)
        states_RND, _ = self.backbone.read(self.embedding(x_RNP))
        y_RH = self.head(states_RND.flatten(1))
        if self.revin:
            y_RH = y_RH * deviation + mean
        return y_RH.view(batch, columns, -1).transpose(1, 2)

    def no_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return {f"backbone.{name}" for name in self.backbone.no_decay()} | {"embedding.bias", "head.bias"}


class DLinear(nn.Module):
    """DLinear (arXiv 2205.13504): a linear map of the moving average of a window, and one of what is left, shared by all columns.

    Parameters
    ----------
    lookback, horizon : int
        Steps read, and steps forecast.
    kernel : int
        Steps of the moving average, odd; the ends of a window are repeated.
    """

    def __init__(self, lookback: int, horizon: int, kernel: int = 25) -> None:
        super().__init__()
        self.lookback, self.kernel = lookback, kernel
        self.trend, self.season = nn.Linear(lookback, horizon), nn.Linear(lookback, horizon)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """(B, lookback, C) to (B, horizon, C)."""
        x_BCL = x_BLC.transpose(1, 2)
        side = self.kernel // 2
        trend = F.avg_pool1d(F.pad(x_BCL, (side, side), mode="replicate"), self.kernel, stride=1)
        return (self.trend(trend) + self.season(x_BCL - trend)).transpose(1, 2)

    def no_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return {"trend.bias", "season.bias"}


class LastValue(nn.Module):
    """The last value of each column, for all steps to come.

    Parameters
    ----------
    horizon : int
        Steps forecast.
    """

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.lookback, self.horizon = 1, horizon

    def forward(self, x_BLC: Tensor) -> Tensor:
        """(B, 1 or more, C) to (B, horizon, C)."""
        return x_BLC[:, -1:].expand(-1, self.horizon, -1)
