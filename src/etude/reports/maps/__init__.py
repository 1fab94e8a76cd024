"""Maps of the embeddings of runs."""
