"""A finished run read, scored again, and shown: report, model card, maps."""
