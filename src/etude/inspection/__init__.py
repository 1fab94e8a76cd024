"""Inspection of a trained network with one clip."""
