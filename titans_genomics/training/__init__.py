"""Next-token training with Lightning: one function to train, one to load what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from titans_genomics.training.export import (
    build_model,
    check_model,
    load_model,
    model_config,
    with_vocabulary,
)
from titans_genomics.training.loss import next_token_nll, scored_bases

if TYPE_CHECKING:
    from titans_genomics.training.fit import train
    from titans_genomics.training.module import NextToken

__all__ = [
    "NextToken",
    "build_model",
    "check_model",
    "load_model",
    "model_config",
    "next_token_nll",
    "scored_bases",
    "train",
    "with_vocabulary",
]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and only training needs it
    if name == "train":
        from titans_genomics.training.fit import train

        return train
    if name == "NextToken":
        from titans_genomics.training.module import NextToken

        return NextToken
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
