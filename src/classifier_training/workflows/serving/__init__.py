"""What a finished run is for: predictions, exported files, and what they cost."""
