"""Training with learner, optimiser, augmentation, transfer, callbacks and checkpoints."""
