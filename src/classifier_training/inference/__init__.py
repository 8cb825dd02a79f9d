"""Predictions from a finished run, without torch."""
