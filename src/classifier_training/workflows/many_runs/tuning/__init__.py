"""The parts of `tune`; optuna is imported nowhere else."""
