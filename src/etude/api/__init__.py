"""Python API with `etude.run`, `etude.load` and the public run object."""
