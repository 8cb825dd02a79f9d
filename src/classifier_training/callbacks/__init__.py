"""Callbacks of a run. None of them runs the network."""
