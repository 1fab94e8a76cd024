"""Frames on disk to batches: sources, packs, splits and the data module."""
