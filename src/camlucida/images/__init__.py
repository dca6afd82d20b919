"""Pictures: files, bytes, PIL images and arrays to upright RGB uint8, and on to a network's input and back."""
