"""Collections, packs, splits and batches."""
