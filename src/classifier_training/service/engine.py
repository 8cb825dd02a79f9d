"""A run that is open and answers: its predictor, and the batches that it is asked in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.inference.rows import RowSettings
from classifier_training.service.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.inference.predictor import Outputs, Predictor


class Engine:
    """Answers with one run.

    Args:
        predictor: of the run.
        run: the run for people, such as pets:v3.
        version: of the run among those of its name, as the protocol has it.
        rows: what its rows say, and when a prediction is rejected.
        max_batch: most images in a batch.
        max_wait_s: seconds that a batch waits for images that are being prepared.
        ended: called with the images and seconds of each batch.
        pool: threads that prepare its images and run it; those of the server, and own ones, when left out.

    Raises:
        UserError: when the model does not answer, or is an ensemble whose members prepare images in different ways.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        run: str,
        version: str = "1",
        rows: RowSettings | None = None,
        max_batch: int = 8,
        max_wait_s: float = 0.005,
        ended: Callable[[int, float], None] = lambda *_: None,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self.pool = pool
        self.predictor, self.run, self.version = predictor, run, version
        self.rows = rows or RowSettings()
        self._warm_up(max_batch)
        # Nothing here refers to the engine itself: the last request that uses it releases it, and its threads.
        self._batcher = Batcher(
            predictor.infer,
            max_batch=max_batch,
            max_wait_s=max_wait_s,
            # Fewer than `predict` takes: the threads that receive requests need the cores, too.
            num_runs=predictor.num_runs(2 * max_batch),
            ended=ended,
            pool=pool,
        )
        self.coming = self._batcher.coming
        self.infer = self._batcher.infer

    @property
    def class_names(self) -> tuple[str, ...]:
        """[K], in the order of the outputs."""
        return self.predictor.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """From pixels to input."""
        return self.predictor.preprocessing

    @property
    def gives_novelty(self) -> bool:
        """Whether the model scores how unlike the training data an image is."""
        return self._gives_novelty

    def answer(self, inputs: NDArray[np.float32]) -> Outputs:
        """Run the model on inputs, float32 [B, 3, H, W], now and in this thread."""
        return self.predictor.infer(inputs)

    def close(self) -> None:
        """End the threads, once what they work on is done; for the end of the server."""
        self._batcher.close()

    def _warm_up(self, max_batch: int) -> None:
        """Run the model once with one image and once with a full batch, so that no request pays for it."""
        height, width = self.preprocessing.size
        for number in sorted({1, max_batch}):
            found = self.answer(np.zeros((number, 3, height, width), dtype=np.float32))
            if found.logits.shape != (number, len(self.class_names)):
                raise UserError(
                    f"{self.predictor.model_path}: gives logits of the shape {found.logits.shape} for {number} images",
                    f"{(number, len(self.class_names))}",
                    "another run, or a smaller max_batch for a model of a fixed batch",
                )
        self._gives_novelty = found.novelty is not None


PRODUCTION = "production"


class Arms(Protocol):
    """The runs of a server, and which one answers a request.

    Attributes:
        engines: by the name of the arm; `PRODUCTION` is always there.
    """

    engines: dict[str, Engine]

    def choose(self, request_id: str) -> str:
        """Return the arm whose answer a request gets, the same for the same id."""
        ...

    def shadows(self, request_id: str) -> Sequence[str]:
        """Return the arms that answer a request besides, for the observers alone."""
        ...


class SingleArm:
    """One run answers everything.

    Args:
        engine: of the run.
    """

    def __init__(self, engine: Engine) -> None:
        self.engines = {PRODUCTION: engine}

    def choose(self, request_id: str) -> str:  # noqa: ARG002
        """Return the one arm."""
        return PRODUCTION

    def shadows(self, request_id: str) -> Sequence[str]:  # noqa: ARG002
        """Return none."""
        return ()
