"""A collection before any training: its clips as pictures, its labels as counts, and what would leak."""
