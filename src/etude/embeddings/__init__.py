"""Embeddings: the cache of frozen layers."""
