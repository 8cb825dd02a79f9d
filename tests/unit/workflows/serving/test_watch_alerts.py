"""The rules for Prometheus: read as YAML, about metrics of the server, with limits of the run."""

from __future__ import annotations

import re
from dataclasses import replace

import yaml
from tests.predictions import make_reference

from classifier_training.monitoring.reference import Reference
from classifier_training.monitoring.sketch import Sketch
from classifier_training.monitoring.statistics import CONFIDENCE, Scale
from classifier_training.service.limits import Gate
from classifier_training.service.metrics import Metrics
from classifier_training.service.settings import Limits
from classifier_training.workflows.serving.watch_alerts import alert_rules

REFERENCE = make_reference()


def rules(reference: Reference) -> dict[str, str]:
    """Expression of each rule."""
    (group,) = yaml.safe_load(alert_rules(reference))["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def test_every_metric_of_a_rule_is_one_of_the_server() -> None:
    metrics = Metrics(Gate(Limits()))
    families = {family.name for family in metrics.registry.collect()}
    for expression in rules(REFERENCE).values():
        for name in re.findall(r"classifier_[a-z_]+", expression):
            assert re.sub(r"_(total|sum|count|bucket)$", "", name) in families, name


def test_the_limit_of_the_confidence_is_below_that_of_the_validation_images() -> None:
    (limit,) = re.findall(r"< ([\d.]+) and", rules(REFERENCE)["ClassifierConfidenceFallen"])
    mean = float(REFERENCE.sketch.means[CONFIDENCE])
    assert mean - 0.2 < float(limit) < mean


def test_a_class_name_cannot_end_its_quotes() -> None:
    found, names = REFERENCE.sketch, ('a "b"', "c\\d")
    named = Sketch("", names, found.number, 0, found.predicted, found.probabilities, found.known, found.totals)
    expression = rules(replace(REFERENCE, sketch=named))["ClassifierClassSharesChanged"]
    assert r'label="a \"b\""' in expression
    assert r'label="c\\d"' in expression


def test_an_energy_that_is_negative_has_no_rule() -> None:
    assert REFERENCE.novelty is not None
    assert "ClassifierImagesUnlikeTraining" in rules(replace(REFERENCE, novelty=Scale(0.0, 0.1)))
    assert "ClassifierImagesUnlikeTraining" not in rules(replace(REFERENCE, novelty=Scale(-9.0, -5.0)))
