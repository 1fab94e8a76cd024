"""Benchmarks of speed against peers, as ratios."""
