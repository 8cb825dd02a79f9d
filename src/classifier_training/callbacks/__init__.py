"""What watches a run. None of them runs the network."""
