from __future__ import annotations

import pytest

from classifier_training.core.errors import UserError
from classifier_training.workflows.many_runs.launch.base import Launcher
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.many_runs.launch.ray import Ray
from classifier_training.workflows.many_runs.launch.slurm import Slurm
from classifier_training.workflows.serving.predict_ray import ray_of


def test_this_machine_needs_no_cluster() -> None:
    assert ray_of(LOCAL, output=None, sort_into="/sorted") is None
    assert ray_of(Ray(cores=2), output="/out/", sort_into=None) == Ray(cores=2)


@pytest.mark.parametrize(
    ("launcher", "output", "sort_into", "came", "remedy"),
    [
        (Slurm(), "/out/", None, "launcher=slurm: predict does not run there", "launcher=ray"),
        (Ray(), None, None, "launcher=ray without output", "output=/shared/predictions/"),
        (Ray(nodes=2), "/out/", None, "launcher.nodes=2: predict uses all machines", "leave launcher.nodes= out"),
        (Ray(), "/out/", "/sorted", "launcher=ray with sort_into=/sorted", "leave sort_into= out"),
    ],
)
def test_what_a_cluster_does_not_do_is_refused(
    launcher: Launcher, output: str | None, sort_into: str | None, came: str, remedy: str
) -> None:
    with pytest.raises(UserError) as found:
        ray_of(launcher, output=output, sort_into=sort_into)
    assert came in found.value.came
    assert remedy in found.value.remedy
