"""Labelled datasets: from their own files, or a benchmark's official copy, to the one form that everything downstream reads."""

from titans_genomics.data.labelled.dataset import Labelled, draw, load_labelled
from titans_genomics.data.labelled.preparation import prepare

__all__ = ["Labelled", "draw", "load_labelled", "prepare"]
