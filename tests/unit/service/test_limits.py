"""Hundreds of hostile requests at once: each is refused, and the server goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from serve_hostile import KINDS, attack
from tests.served import ask, jpeg, make_service, running

from classifier_training.service.settings import Limits

if TYPE_CHECKING:
    from pathlib import Path


def test_hostile_requests_of_many_clients_are_all_refused(model: Path) -> None:
    service = make_service(model, limits=Limits(seconds=0.5))
    service.name = "classifier"
    with running(service.app()) as port:
        found = attack(port, number=330)
        assert {kind for kind, _ in found} == {"stopped_body", *(kind.__name__ for kind in KINDS)}
        assert {status[:1] for _, status in found} <= {"2", "4"}, found
        refused = {kind for kind, status in found if status[:1] == "4"}
        assert refused == {kind for kind, _ in found}
        # What is refused is not held, and the next is answered.
        assert (service.gate.images, service.gate.bytes) == (0, 0)
        assert json.loads(ask(port, "POST", "/classify", jpeg((200, 40, 40)))[2])["label"] == "red"
