"""`python -m classifier_training` is the console script."""

from classifier_training.cli import entry_point

if __name__ == "__main__":
    entry_point()
