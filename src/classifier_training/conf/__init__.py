"""From words on the command line to validated objects."""
