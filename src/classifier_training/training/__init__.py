"""Everything that happens while weights change."""
