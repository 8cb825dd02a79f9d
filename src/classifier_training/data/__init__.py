"""From files to batches: index, splits, transforms, samplers."""
