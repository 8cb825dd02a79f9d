from __future__ import annotations

import shutil
from pathlib import Path

from tests.reviewed import make_reviewed

from classifier_training.data.formats.image_folder import AutoData
from classifier_training.workflows.reviewing.collection import collect_run
from classifier_training.workflows.reviewing.review import _data_words


def test_a_training_reads_the_corrections_of_the_images_that_were_reviewed(tmp_path: Path) -> None:
    run = make_reviewed(tmp_path)
    own = Path(collect_run(run, moved_to=None, corrections="auto").root)
    assert _data_words(collect_run(run, moved_to=None, corrections="auto"), run, AutoData()) == []
    copy = tmp_path / "a copy"
    shutil.copytree(own, copy)
    data = AutoData(root=str(copy))
    collection = collect_run(run, moved_to=str(copy), corrections="auto")
    assert _data_words(collection, run, data) == [f'data.corrections="{copy}/corrections.csv"']
    shutil.rmtree(own)
    assert _data_words(collection, run, data) == [f'data.root="{copy}"']
