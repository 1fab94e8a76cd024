"""A trained network as files that others run without this project: an ONNX graph, a PyTorch program, safetensors."""
