"""From an embedding to outputs, losses and predictions: heads, targets, balance, task."""
