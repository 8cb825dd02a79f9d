"""How images are changed in training."""
