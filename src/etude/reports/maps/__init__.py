"""Embedding maps of runs."""
