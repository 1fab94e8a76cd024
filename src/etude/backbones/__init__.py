"""Backbones, the networks from frames (B, T, F) to an embedding (B, D)."""
