"""One file a verb: plain typed functions."""
