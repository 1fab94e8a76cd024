"""Run folders: paths, readers and schemas."""
