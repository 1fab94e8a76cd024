"""Collections, packs, splits, batches and the LightningDataModule."""
