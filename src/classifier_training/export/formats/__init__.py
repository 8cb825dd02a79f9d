"""One file a format that a network can be exported to."""
