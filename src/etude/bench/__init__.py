"""How fast, against what: every bar is a ratio between two things that are timed in one run."""
