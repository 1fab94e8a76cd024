"""Maps of the embeddings: runs to coordinates, to what these preserve, to a page. Reads files only."""
