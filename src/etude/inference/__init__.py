"""Predictions of a trained network for audio files."""
