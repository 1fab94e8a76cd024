"""Étude: experiments in music understanding.

Importing this package costs nothing: everything heavy is imported by the functions that need it.
"""

__version__ = "0.1.0"
