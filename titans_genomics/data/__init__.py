"""Sequence files to tokens: readers, the nucleotide alphabet, the token store, splits and windows."""
