"""The registry of runs: list, alias, report, export, clean up."""

import classifier_training.workflows.registering.registry
import classifier_training.workflows.registering.sub_verbs  # noqa: F401 - each registers its sub-verbs
