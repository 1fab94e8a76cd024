"""Paths, readers and schemas of run folders."""
