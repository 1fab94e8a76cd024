"""Export of networks as ONNX, torch.export or safetensors, with model cards."""
