"""The manifests of deploy/: no cluster runs here, so their fields are compared with schemas, and with the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from classifier_training import cli
from classifier_training.conf.compose import compose
from classifier_training.export.formats.triton import Triton

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.37"


def documents() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.name}-{document['kind']}")
        for path in sorted((ROOT / "deploy").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object with these fields alone."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
AMOUNTS = {"type": "object", "additionalProperties": {"pattern": r"^\d+(\.\d+)?(m|Mi|Gi)?$"}}
RESOURCES = closed(requests=AMOUNTS, limits=AMOUNTS)
PROBE = closed(
    ("httpGet",), httpGet=closed(("port",), path=TEXT, port={"type": ["integer", "string"]}),
    periodSeconds=COUNT, timeoutSeconds=COUNT, failureThreshold=COUNT, initialDelaySeconds=COUNT,
)  # fmt: skip
INFERENCE_SERVICE = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "serving.kserve.io/v1beta1"},
    kind={"const": "InferenceService"},
    metadata=closed(("name",), name={"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}, annotations={"type": "object"}),
    spec=closed(
        ("predictor",),
        predictor=closed(
            minReplicas=COUNT,
            maxReplicas=COUNT,
            canaryTrafficPercent={"type": "integer", "minimum": 0, "maximum": 100},
            model=closed(
                ("modelFormat",),
                modelFormat=closed(("name",), name=TEXT, version=TEXT),
                runtime=TEXT,
                protocolVersion={"enum": ["v1", "v2", "grpc-v2"]},
                storageUri={"pattern": "^(pvc|s3|gs|https?|hf)://"},
                resources=RESOURCES,
            ),
            containers={
                "type": "array",
                "items": closed(
                    ("name", "image"), name=TEXT, image=TEXT, args={"type": "array", "items": TEXT},
                    ports={"type": "array", "items": closed(("containerPort",), containerPort=COUNT, protocol=TEXT)},
                    readinessProbe=PROBE, livenessProbe=PROBE, startupProbe=PROBE, resources=RESOURCES,
                    volumeMounts={
                        "type": "array",
                        "items": closed(("name", "mountPath"), name=TEXT, mountPath=TEXT, readOnly={"type": "boolean"}),
                    },
                ),
            },
            volumes={
                "type": "array",
                "items": closed(
                    ("name",), name=TEXT,
                    persistentVolumeClaim=closed(("claimName",), claimName=TEXT, readOnly={"type": "boolean"}),
                ),
            },
        ),
    ),
)  # fmt: skip
"""The fields of KServe's InferenceService v1beta1 that the manifests use, written from its definition
(config/crd/full/serving.kserve.io_inferenceservices.yaml of github.com/kserve/kserve), and no others."""


@pytest.mark.parametrize("document", documents())
def test_the_fields_are_those_of_the_schema(document: dict[str, Any]) -> None:
    if document["kind"] == "InferenceService":
        jsonschema.validate(document, INFERENCE_SERVICE)
    else:
        kubernetes_validate = pytest.importorskip("kubernetes_validate")
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("place", "value"),
    [("canaryTrafficPercent", 101), ("canaryTraficPercent", 10), ("minReplicas", "one"), ("model", {"runtime": "x"})],
)
def test_the_schema_of_inference_services_refuses_what_is_wrong(place: str, value: object) -> None:
    good = yaml.safe_load((ROOT / "deploy/kserve-triton.yaml").read_text())
    good["spec"]["predictor"][place] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good, INFERENCE_SERVICE)


def pods() -> list[Any]:
    found = []
    for parameter in documents():
        (document,) = parameter.values
        spec = document["spec"]
        pod = spec.get("template", {}).get("spec") or spec.get("predictor", {})
        if "containers" in pod:
            found.append(pytest.param(pod, id=parameter.id))
    return found


@pytest.mark.parametrize("pod", pods())
def test_the_program_takes_the_command_and_has_what_is_asked_of_it(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    verb, words = cli.find_verb(container["args"])
    assert verb.name == "serve"
    compose(verb, tuple(words))
    settings = dict(word.split("=", 1) for word in words)
    (port,) = container["ports"]
    assert settings["port"] == str(port["containerPort"])
    assert settings["host"] == "0.0.0.0"
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if name in container:
            asked = container[name]["httpGet"]
            assert asked["path"] in ("/v2/health/ready", "/v2/health/live")
            assert asked["port"] in (port["containerPort"], port.get("name"))
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/work/outputs", *([settings["record"]] if "record" in settings else [])} <= mounted
    assert "WORKDIR /work\n" in (ROOT / "Dockerfile").read_text()
    drain, grace = (float(settings.get(name, default)) for name, default in (("drain_s", 0), ("grace_s", 30)))
    assert pod.get("terminationGracePeriodSeconds", 30) > drain + grace or "terminationGracePeriodSeconds" not in pod


def test_the_service_finds_the_pods() -> None:
    by_kind = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())}
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert by_kind["Service"]["spec"]["selector"] == labels
    assert by_kind["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_triton_is_given_the_folder_that_export_writes() -> None:
    predictor = yaml.safe_load((ROOT / "deploy/kserve-triton.yaml").read_text())["spec"]["predictor"]
    assert predictor["model"]["storageUri"].rpartition("/")[2] == Triton.file
