"""What a notebook shows of this package, in a real Jupyter kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]


class Watched(NotebookClient):
    """Runs a notebook, and keeps what changes in the outputs of its cells while they run."""

    def __init__(self, notebook: NotebookNode, folder: Path) -> None:
        super().__init__(
            notebook,
            timeout=600,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        self.changes: list[str] = []

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        if msg["msg_type"] == "update_display_data":
            self.changes.append(msg["content"]["data"]["text/html"])
        return super().process_message(msg, cell, cell_index)


PROGRESS = """
import time
from classifier_training.core.progress import progress
from classifier_training.core.runtime import console

with progress("images", total=lambda: 4) as advance:
    for _ in range(4):
        time.sleep(0.3)
        advance(1)
console().print("one line")
console().print("and another")
"""


def test_a_notebook_shows_a_bar_that_moves_and_plain_lines(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRESS)])
    watched = Watched(notebook, tmp_path)
    watched.execute()
    assert watched.changes[0].startswith('<code>images</code> <progress value="2" max="4"></progress> ETA 0:0')
    assert watched.changes[-1] == "", "the bar is taken away"
    bar, lines = notebook.cells[0].outputs
    assert bar.data["text/html"] == ""
    assert (lines.name, lines.text) == ("stdout", "one line\nand another\n")
