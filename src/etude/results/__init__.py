"""A run folder to numbers, pictures and pages. Reads files only: no model, no GPU."""
