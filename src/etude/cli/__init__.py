"""The commands of `etude`, one module each."""
