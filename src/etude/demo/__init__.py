"""Demo page of a trained network."""
