"""Data sources, one module for each dataset or layout."""
