"""The demo page of a trained network."""
