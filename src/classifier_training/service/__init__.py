"""Serving predictions over HTTP."""
