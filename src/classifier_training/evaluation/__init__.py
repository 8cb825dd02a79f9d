"""From answers to figures: metrics, plots, result files."""
