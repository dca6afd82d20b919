"""Any classifier's graph, or a torch module, as an ONNX file with maps, compared before it is kept."""
