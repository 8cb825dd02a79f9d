"""`python -m classifier_training` is the console script."""

from classifier_training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
