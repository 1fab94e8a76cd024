"""Networks that embed a clip: (B, T, F) frames and (B,) lengths to (B, D)."""
