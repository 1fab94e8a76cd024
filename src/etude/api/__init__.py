"""Python API: `etude.run`, `etude.load` and the public run object."""
