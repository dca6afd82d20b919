"""The ONNX engine: models whose graph already computes its maps, run without PyTorch."""
