"""Atomic writing, the record of files written by Étude, locks, and safe reading of untrusted files.

No other package deletes, renames or replaces files.
"""
