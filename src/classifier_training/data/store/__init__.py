"""Decoded pixels on disk, memory-mapped."""
