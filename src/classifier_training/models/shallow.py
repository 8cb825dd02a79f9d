"""Shallow models behind `model=svm` and `model=random_forest`: settings, and how scikit-learn fits them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.types import BuiltModel, InputSpec

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

    from classifier_training.models.shallow_classifiers import FittedClassifier

INPUT = InputSpec(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ShallowModel:
    """Handcrafted features into a classifier that is fitted at once, not by gradients.

    Args:
        hog_orientations: directions of the gradient histograms, over half a turn.
        hog_cell_size: side of their cells in pixels.
        hog_block_size: side of the blocks they are normalized in, in cells.
        lbp_points: neighbours that a local binary pattern compares a pixel with.
        lbp_radius: distance of these neighbours in pixels.
        lbp_grid: regions a side that patterns are counted in.
        color_space: rgb, or hsv for hue, saturation and value.
        color_bins: of the histogram of each channel.
        color_grid: regions a side that colours are counted in.
    """

    architecture: ClassVar[str]

    hog_orientations: Annotated[int, Field(ge=2, le=36)] = 9
    hog_cell_size: Annotated[int, Field(ge=2, le=128)] = 8
    hog_block_size: Annotated[int, Field(ge=1, le=4)] = 2
    lbp_points: Annotated[int, Field(ge=4, le=24)] = 8
    lbp_radius: Annotated[float, Field(ge=1, le=16)] = 1.0
    lbp_grid: Annotated[int, Field(ge=1, le=16)] = 4
    color_space: Literal["hsv", "rgb"] = "hsv"
    color_bins: Annotated[int, Field(ge=2, le=64)] = 16
    color_grid: Annotated[int, Field(ge=1, le=16)] = 2

    def __call__(self, num_classes: int) -> BuiltModel:
        """Build the network, its classifier still empty."""
        from classifier_training.models.shallow_classifiers import ShallowNetwork
        from classifier_training.models.shallow_features import (
            ColorHistograms,
            HistogramOfGradients,
            LocalBinaryPatterns,
        )

        features = [
            HistogramOfGradients(
                orientations=self.hog_orientations, cell_size=self.hog_cell_size, block_size=self.hog_block_size
            ),
            LocalBinaryPatterns(points=self.lbp_points, radius=self.lbp_radius, grid=self.lbp_grid),
            ColorHistograms(space=self.color_space, bins=self.color_bins, grid=self.color_grid),
        ]
        network = ShallowNetwork(features, self.classifier(num_classes), INPUT)
        return BuiltModel(network, INPUT, self.architecture)

    @property
    def feature_settings(self) -> dict[str, Any]:
        """All that an image's features depend on, but for its pixels."""
        return {field.name: getattr(self, field.name) for field in fields(ShallowModel)}

    @abstractmethod
    def classifier(self, num_classes: int) -> FittedClassifier:
        """Return the last part of the network, empty."""

    @abstractmethod
    def estimator(self, seed: int) -> ClassifierMixin:
        """Return scikit-learn's estimator, still to be fitted.

        Args:
            seed: its randomness follows from it alone.
        """


@register(group="model", name="svm")
@dataclass(frozen=True, kw_only=True)
class SupportVectorMachine(ShallowModel):
    """HOG, local binary patterns and colour histograms into a support vector machine.

    Args:
        kernel: rbf compares with support vectors, up to some 20,000 images; linear is quick with many more.
        C: how much an image on the wrong side costs against a wide margin.
        gamma: how quickly a support vector loses weight with the distance; scale is 1 / (features x their variance).
    """

    architecture = "svm"

    kernel: Literal["rbf", "linear"] = "rbf"
    C: Positive = 10.0
    gamma: Positive | Literal["scale"] = "scale"

    def classifier(self, num_classes: int) -> FittedClassifier:
        """Return the last part of the network; see the base class."""
        from classifier_training.models.shallow_classifiers import LinearVectors, SupportVectors

        return SupportVectors(num_classes) if self.kernel == "rbf" else LinearVectors(num_classes)

    def estimator(self, seed: int) -> ClassifierMixin:
        """Return scikit-learn's estimator; see the base class."""
        from sklearn.svm import SVC, LinearSVC

        if self.kernel == "linear":
            return LinearSVC(C=self.C, random_state=seed, max_iter=10_000)
        # Equal votes are decided by the margins, as the network decides them.
        return SVC(C=self.C, gamma=self.gamma, break_ties=True, cache_size=1000)


@register(group="model", name="random_forest")
@dataclass(frozen=True, kw_only=True)
class RandomForest(ShallowModel):
    """HOG, local binary patterns and colour histograms into a random forest.

    Args:
        num_trees: whose mean prediction counts.
        max_depth: of a tree, in questions.
        min_samples_leaf: training images that every leaf of a tree must rest on.
        max_features: share of the features that a question is chosen from; sqrt is the root of their number.
    """

    architecture = "random_forest"

    num_trees: Annotated[int, Field(ge=1, le=5000)] = 300
    max_depth: Annotated[int, Field(ge=1, le=64)] = 20
    min_samples_leaf: Annotated[int, Field(ge=1)] = 1
    max_features: Annotated[float, Field(gt=0, le=1)] | Literal["sqrt"] = "sqrt"

    def classifier(self, num_classes: int) -> FittedClassifier:
        """Return the last part of the network; see the base class."""
        from classifier_training.models.shallow_classifiers import Forest

        return Forest(num_classes)

    def estimator(self, seed: int) -> ClassifierMixin:
        """Return scikit-learn's estimator; see the base class."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(
            self.num_trees,
            max_depth=self.max_depth,
            min_samples_leaf=self.min_samples_leaf,
            max_features=self.max_features,
            n_jobs=-1,
            random_state=seed,
        )
