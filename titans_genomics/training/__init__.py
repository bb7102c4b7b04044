"""Next-token training with Lightning: one function to train, one to load what was trained."""

from titans_genomics.training.export import (
    build_model,
    check_model,
    load_model,
    model_config,
    with_vocabulary,
)
from titans_genomics.training.fit import train
from titans_genomics.training.module import NextToken, next_token_nll, scored_bases

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
