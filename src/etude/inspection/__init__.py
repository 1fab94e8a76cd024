"""The inside of a trained network for one clip: its page loads a model."""
