"""Training: learner, optimiser, augmentation, transfer, callbacks and checkpoints."""
