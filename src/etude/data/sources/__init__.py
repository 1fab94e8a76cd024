"""Data sources, one module for each dataset or layout.

Each module has a function that returns a `Collection`. `conf/data/<name>.yaml` contains the name of the function.
"""
