"""Searches of hyper-parameters: what they draw from, an Optuna study that is gone on with, and what came out best."""
