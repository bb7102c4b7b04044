"""Titans long-term memory models for genomes: sequence files to tokens, training, evaluation, report.

`load` opens a trained model: ``titans_genomics.load("results/default")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titans_genomics.use.run import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # what needs PyTorch is imported when it is asked for, so that every command begins at once
    if name == "load":
        from titans_genomics.use.run import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
