"""Page about a dataset."""
