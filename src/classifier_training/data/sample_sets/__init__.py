"""Data sets that are made on this machine: rendered once, kept in the cache."""
