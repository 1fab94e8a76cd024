"""Predictions of a trained network on sound files."""
