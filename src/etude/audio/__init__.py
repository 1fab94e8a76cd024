"""Decoding of audio files, front ends, beats, tuning and descriptors."""
