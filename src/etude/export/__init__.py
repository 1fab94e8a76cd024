"""Export of networks: ONNX, torch.export, safetensors and model cards."""
