from __future__ import annotations

import threading
import time
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from classifier_training.workflows.training.heartbeat import Heartbeat


def test_a_silent_node_is_named_once_and_one_that_beats_is_not() -> None:
    server = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    stores = [
        PrefixStore("run", TCPStore("127.0.0.1", server.port, None, False, timedelta(seconds=5))) for _ in range(3)
    ]
    lost: list[list[int]] = []
    noticed = threading.Event()

    def lose(nodes: list[int]) -> None:
        lost.append(nodes)
        noticed.set()

    def beating(node: int) -> Heartbeat:
        return Heartbeat(stores[node], node, 3, lose if node == 0 else lambda _: None, every=0.05, silent=2.0)

    with beating(0), beating(1), beating(2) as last:
        assert not noticed.wait(3)
        last.__exit__()
        started = time.monotonic()
        assert noticed.wait(30)
        assert time.monotonic() - started > 1.5
        time.sleep(0.3)
    assert lost == [[2]]
