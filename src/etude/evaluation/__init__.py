"""Evaluation of a table of predictions."""
