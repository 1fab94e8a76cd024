"""HTML pages, tables and figures."""
