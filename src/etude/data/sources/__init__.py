"""Data sources, one module for each dataset or layout.

Each has a function that returns a `Collection`; `conf/data/<name>.yaml` names it.
"""
