"""Sample data sets that are rendered on this machine once and cached."""
