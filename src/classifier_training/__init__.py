"""From a folder of images to a classifier you can trust and ship, in one command."""

from importlib.metadata import version

__version__ = version("classifier-training")
