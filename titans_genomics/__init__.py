"""Titans long-term memory models for genomes: sequence files to tokens, training, evaluation, report."""

__version__ = "0.1.0"
