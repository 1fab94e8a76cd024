"""Backbones, the networks that compute an embedding (B, D) from frames (B, T, F)."""
