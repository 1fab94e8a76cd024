"""Commands of `etude`, one module each."""
