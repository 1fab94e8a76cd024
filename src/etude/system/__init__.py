"""Properties of the process and its machine: cores, signals, standard streams and ranks."""
