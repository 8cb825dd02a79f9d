"""What a network sees: which images are alike to it, and the places that its predictions rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import (
    GAP,
    TILE,
    caption,
    caption_height,
    draw_tile,
    lay_out,
    show_canvas,
    write_caption,
)
from classifier_training.evaluation.figures.style import RED, label_of, new_axes

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray

MAX_LEGEND = 20
MAX_THUMBNAILS = 60
THUMBNAIL = 24


@dataclass(frozen=True, kw_only=True)
class EmbeddingFigure(Figure):
    """Images as points, near each other where the network sees the same in them, some as images.

    The places are found by t-SNE (van der Maaten & Hinton 2008) when it is painted.

    Args:
        features: what the network sees, float32 [N, D].
        targets: class of each image [N].
        correct: whether its prediction is [N].
        paths: image files [N].
        class_names: [K].
        title: above the image.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.int64]
    correct: NDArray[np.bool_]
    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        import matplotlib as mpl
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        points = embed(self.features)
        figure, axes = new_axes(9, 7.5)
        present = np.unique(self.targets)
        colours = mpl.colormaps["tab20" if len(present) > 10 else "tab10"].colors  # type: ignore[attr-defined]
        for number, target in enumerate(present):
            chosen = self.targets == target
            axes.scatter(
                points[chosen, 0], points[chosen, 1], s=14, color=colours[number % len(colours)],
                label=label_of(self.class_names[target]) if number < MAX_LEGEND else None,
            )  # fmt: skip
        wrong = ~self.correct
        axes.scatter(
            points[wrong, 0],
            points[wrong, 1],
            s=46,
            facecolors="none",
            edgecolors=RED,
            linewidths=1.1,
            label="wrong prediction",
        )
        for row in spread(points, MAX_THUMBNAILS):
            small = Image.fromarray(draw_tile(self.paths[row])).resize((THUMBNAIL, THUMBNAIL))
            edge = {
                "edgecolor": colours[int(np.searchsorted(present, self.targets[row])) % len(colours)],
                "linewidth": 1.4,
            }
            box = AnnotationBbox(OffsetImage(np.asarray(small)), tuple(points[row]), pad=0.05, bboxprops=edge)
            box.set_in_layout(False)
            axes.add_artist(box)
        axes.set_xticks([])
        axes.set_yticks([])
        hidden = max(0, len(present) - MAX_LEGEND)
        axes.set_title(self.title + (f"\n({hidden} classes without a name at the side)" if hidden else ""))
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
        return figure


def embed(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return places in the plane [N, 2] for features [N, D]."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < 5:
        places = np.zeros((len(features), 2))
        places[:, 0] = np.arange(len(features))
        return places
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    reduced = PCA(min(50, *scaled.shape), random_state=0).fit_transform(scaled)
    perplexity = min(30.0, (len(features) - 1) / 3)
    # Rounding differs from thread to thread, and t-SNE lets it grow.
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(reduced))


def spread(points: NDArray[np.float64], number: int) -> list[int]:
    """Return rows of points [N, 2] that are spread over the plane: one in each filled field of a grid."""
    side = max(1, int(np.sqrt(number)) + 1)
    low, size = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    fields = np.minimum(((points - low) / size * side).astype(int), side - 1)
    _, first = np.unique(fields[:, 0] * side + fields[:, 1], return_index=True)
    return [int(row) for row in first[:number]]


@dataclass(frozen=True, kw_only=True)
class OcclusionTile:
    """An image and the places that its prediction rests on.

    Args:
        image: what the network was shown, uint8 [H, W, 3].
        falls: by how much the predicted class's probability falls when a place is hidden, float32 [P, P].
        true_label: what it is.
        predicted_label: what it was predicted as.
        confidence: of the prediction.
    """

    image: NDArray[np.uint8]
    falls: NDArray[np.float32]
    true_label: str
    predicted_label: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class OcclusionFigure(Figure):
    """Pairs of an image and the same with its places coloured: red where the prediction rests, blue where it suffers.

    Args:
        tiles: the worst first.
        title: above the image.
        columns: pairs in a row.
    """

    tiles: tuple[OcclusionTile, ...]
    title: str
    columns: int = 4

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        columns = min(self.columns, len(self.tiles))
        width = 2 * TILE + GAP
        captions = [caption(tile.true_label, tile.predicted_label, tile.confidence, width=width) for tile in self.tiles]
        canvas, corners = lay_out(len(self.tiles), columns, height=TILE + caption_height(captions), width=width)
        figure, axes = new_axes(max(canvas.shape[1] / 100, 5), canvas.shape[0] / 100 + 0.6)
        for tile, text, (top, left) in zip(self.tiles, captions, corners, strict=True):
            plain = np.asarray(Image.fromarray(tile.image).resize((TILE, TILE), Image.Resampling.BILINEAR))
            canvas[top : top + TILE, left : left + TILE] = plain
            canvas[top : top + TILE, left + TILE : left + 2 * TILE] = tint(plain, tile.falls)
            write_caption(axes, text, left + TILE, top + TILE, RED)
        show_canvas(axes, canvas, f"{self.title}\nred: hiding it weakens the prediction; blue: strengthens it")
        return figure


def tint(image: NDArray[np.uint8], falls: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a square image, uint8 [S, S, 3], by the falls [P, P], scaled to the largest."""
    side = len(image)
    scaled = Image.fromarray((falls / max(float(np.abs(falls).max()), 1e-6)).astype(np.float32))
    strength = np.asarray(scaled.resize((side, side), Image.Resampling.BICUBIC)).clip(-1, 1)[..., None]
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    colour = np.where(strength > 0, np.array([214.0, 39.0, 40.0]), np.array([31.0, 90.0, 200.0]))
    weight = 0.65 * np.abs(strength)
    return np.asarray(grey * (1 - weight) + colour * weight, dtype=np.uint8)
