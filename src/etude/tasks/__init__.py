"""Tasks: targets, heads, losses and their weighting."""
