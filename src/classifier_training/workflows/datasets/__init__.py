"""Data without a model: what is wrong with it, and what is prepared before training."""
