"""Evaluation: from a table of predictions to numbers."""
