"""Benchmarks that compare the speed with other libraries, as ratios."""
