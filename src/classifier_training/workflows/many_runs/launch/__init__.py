"""Where jobs run: each module registers a launcher, and imports nothing of what it needs before it is used."""

from classifier_training.workflows.many_runs.launch import local, ray, slurm

__all__ = ["local", "ray", "slurm"]
