"""The registry of runs: list, alias, report, export, clean up."""
