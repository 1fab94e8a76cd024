"""Cores, signals, standard streams and ranks of the process and its machine."""
