"""Sound files to frames: decoding, front ends, beats, tuning and descriptors."""
