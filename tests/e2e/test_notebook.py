"""What a notebook shows of this package, in a real Jupyter kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLE = Path(__file__).parents[2] / "examples/first_run.ipynb"


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
from classifier_training.core.display import progress
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


def test_the_example_is_kept_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.nightly
def test_the_example_runs_and_shows_progress_metrics_and_errors(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    watched = Watched(notebook, tmp_path)
    watched.execute()
    outputs = {
        cell.source: [output.get("text") or "".join(output.data.values()) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    (training,) = [found for source, found in outputs.items() if source.startswith("run = ct.train(")]
    assert any("epoch 3/3" in text for text in training)
    assert any("<progress value=" in change and "epoch" in change for change in watched.changes)
    assert not any("IProgress" in text for text in training)
    (table, *_) = outputs["run"]
    assert "<th>balanced_accuracy</th>" in table
    assert "<th>class</th><th>precision</th><th>recall</th><th>images</th>" in table
    assert 'src="data:image/jpeg;base64,' in table, "the errors are shown as thumbnails"
    written = next(found for source, found in outputs.items() if "run.export" in source)
    assert any("model.torchscript\n" in text for text in written)
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
