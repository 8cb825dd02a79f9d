"""Answers from a finished run, without torch."""
