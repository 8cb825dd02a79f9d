"""Registries elsewhere that a promotion can be told to."""
