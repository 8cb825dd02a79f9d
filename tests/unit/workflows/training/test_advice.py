from __future__ import annotations

from classifier_training.workflows.training.inputs import recipe_advice


def test_a_recipe_for_the_data_is_named_to_networks_from_random_weights_alone() -> None:
    assert "recipe=tiny" in str(recipe_advice("scratch", num_images=999, ratio=50))
    assert "recipe=longtail" in str(recipe_advice("scratch", num_images=5000, ratio=10))
    assert recipe_advice("scratch", num_images=1000, ratio=9.9) is None
    for recipe in ("finetune", "none", "tiny", "longtail", "mine"):
        assert recipe_advice(recipe, num_images=10, ratio=50) is None
