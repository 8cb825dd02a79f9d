"""Handcrafted features into a classical classifier, written as one network."""
