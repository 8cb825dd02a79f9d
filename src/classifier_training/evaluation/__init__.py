"""From predictions to metrics, plots and result files."""
