"""Where clips come from: one file per origin, each giving the same table of clips."""
