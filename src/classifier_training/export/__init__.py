"""From trained weights to the files that ship."""
