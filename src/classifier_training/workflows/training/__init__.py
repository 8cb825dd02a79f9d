"""`train` from data to a run folder, stage by stage."""
