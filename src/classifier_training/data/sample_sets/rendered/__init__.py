"""Images drawn by the program itself, for people without data and for tests."""
