"""Finding runs again."""
