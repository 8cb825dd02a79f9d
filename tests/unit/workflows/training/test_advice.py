from __future__ import annotations

from classifier_training.workflows.training.inputs import recipe_advice


def test_the_recipe_for_the_data_is_named_once_and_only_beside_one_of_autos() -> None:
    assert "recipe=tiny" in str(recipe_advice("scratch", num_images=999, ratio=50))
    assert "recipe=longtail" in str(recipe_advice("finetune", num_images=5000, ratio=10))
    assert recipe_advice("scratch", num_images=1000, ratio=9.9) is None
    for recipe in ("none", "tiny", "longtail", "mine"):
        assert recipe_advice(recipe, num_images=10, ratio=50) is None
