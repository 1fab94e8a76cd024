"""Cache of frozen-layer outputs."""
