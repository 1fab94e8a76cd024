"""Experiment loggers: CSV, Weights & Biases, TensorBoard and MLflow.

What a tracker gets is made once, from the run's folder (`finished_run.py`), and is the same for each; a tracker only
hands it over. The folder is whole before anything of it is handed over, and a tracker that fails costs the run nothing.
"""
