"""The inside of a trained network for one clip: the only page that loads a model."""
