"""Safe writing: atomic files, a record of the files that Étude wrote, and locks on folders.

This package is the only place that deletes, renames or replaces files.
"""
