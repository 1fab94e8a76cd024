"""Decoding of sound files, front ends, beats, tuning and descriptors."""
