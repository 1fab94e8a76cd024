"""Start, stages and record of one experiment."""
