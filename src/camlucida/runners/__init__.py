"""A model and a method as one thing that maps batches: PyTorch, ONNX with and without maps, averaging over views."""
