"""Sweeps over many runs, and hyper-parameter search."""
