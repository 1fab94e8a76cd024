"""Many runs from one command: each a process of its own, on devices of its own, known by what it was told."""
