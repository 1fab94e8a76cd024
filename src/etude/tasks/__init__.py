"""Targets, heads, losses and loss weighting."""
