"""Answering requests over HTTP with finished runs: the Open Inference Protocol, and images as they are."""
