"""Training on image labels alone."""
