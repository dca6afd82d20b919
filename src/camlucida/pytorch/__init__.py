"""The PyTorch engine: one forward pass, split where the spatial axes end. Imported only when a torch model is used."""
