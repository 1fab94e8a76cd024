"""Experiment loggers for CSV, Weights & Biases, TensorBoard and MLflow.

The results for trackers are computed once from the run's folder (`finished_run.py`) and are the same for all trackers.
They are logged after all files of the folder have been written. A failing tracker does not affect the run.
"""
