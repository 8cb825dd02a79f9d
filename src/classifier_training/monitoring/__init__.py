"""What a model predicts in use, kept as counts, and whether that has changed. Needs numpy and scipy alone."""
