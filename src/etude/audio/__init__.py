"""Sound to frames: decoding and spectral features, with numpy and torch.fft only."""
