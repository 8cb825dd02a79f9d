"""A loader that takes processes while images are decoded, and none once their pixels are on disk."""

from __future__ import annotations

import queue
import re
import threading
import time
from contextlib import contextmanager
from itertools import islice
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from classifier_training.core.errors import UserError
from classifier_training.core.processes import Share
from classifier_training.core.runtime import few_open_files
from classifier_training.core.types import Batch, SampleKey
from classifier_training.data.dataset import Loaded
from classifier_training.data.samplers import even_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableSequence, Sequence

    from classifier_training.data.dataset import ImageDataset
    from classifier_training.data.samplers import EpochSampler

Item = TypeVar("Item")

DEPTH = 2
POLL_SECONDS = 0.1


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, which a thread makes up to two ahead; its error is raised in its place."""
    waiting: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def put(value: tuple[Item] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(value, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            break

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            put(error)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (found := waiting.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stopped.set()
        thread.join()


WARM_SHARE = 0.02
"""Share of an epoch's images that may have to be decoded for processes not to be worth their while."""


LOADERS: WeakSet[BatchLoader] = WeakSet()
"""Those of this process: torch tells of a dead worker wherever the program happens to be, and not whose it was."""

DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


class BatchLoader(DataLoader[Batch]):
    """Loads the batches of one split, in this process or in others, and lets the store keep what was decoded.

    torch makes an error of a worker anew from a single text, which ours cannot be made from, so they travel as values.

    Args:
        dataset: what to load.
        sampler: in which order.
        batch_size: images in a batch at the most.
        sizes: images in each batch; whole batches and the rest when left out.
        num_workers: loader processes, while images are decoded.
        loads_ahead: whether a thread of this process loads the next batches; beside a GPU, not beside a busy CPU.
        share: the part of each batch that this process loads.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: EpochSampler,
        *,
        batch_size: int,
        sizes: Sequence[int] | None = None,
        num_workers: int,
        loads_ahead: bool = False,
        share: Share = Share(),  # noqa: B008 - nothing of it can change
    ) -> None:
        if num_workers and few_open_files():
            # Tensors then pass through named shared memory, which takes no descriptor each.
            torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
        if sizes is None:
            whole, rest = divmod(len(sampler), batch_size)
            sizes = [batch_size] * whole + [rest] * (rest > 0)
        batches = _SharedBatches(sampler, sizes, share)
        reading = RawArray("q", [-1] * max(num_workers, 1))
        super().__init__(
            _ErrorsAsValues(dataset, reading),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=_already_collated,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_one_thread,
        )
        self._images = dataset
        self._order = sampler
        self._loads_ahead = loads_ahead
        self._batch_size = batch_size
        self._sizes = list(sizes)
        self._batches = batches
        self._begun = _Begun()
        self._num_given = 0
        self._reading = reading
        LOADERS.add(self)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # All of it when the first batch is asked for: Lightning says which epoch it is after it has asked for this.
        begun, self._begun = self._begun, _Begun()
        self._num_given = begun.num_batches
        for batch in self._from(begun):
            self._num_given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How far the epoch is, for Lightning."""
        num_batches = self._num_given % len(self)
        num_images = sum(self._sizes[:num_batches])
        return {"num_batches": num_batches, "num_images": num_images, "batch_size": self._batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin the next epoch where an interrupted one was left.

        Raises:
            UserError: when it was left in batches of another size.
        """
        if state_dict["num_batches"] and state_dict["batch_size"] != self._batch_size:
            raise UserError(
                f"the epoch was left after {state_dict['num_batches']} batches of {state_dict['batch_size']} images, "
                f"and goes on with {self._batch_size}",
                "batches of the same size up to the end of the epoch",
                f"data.batch_size={state_dict['batch_size']}",
            )
        num_batches = state_dict["num_batches"]
        # Batches were all of the same size before they were evened out.
        self._begun = _Begun(num_batches, state_dict.get("num_images", num_batches * self._batch_size))

    def _from(self, begun: _Begun) -> Iterator[Batch]:
        self._order.start_at(begun.num_images)
        self._batches.start_at(begun)
        first = begun.num_batches
        if self.num_workers and not self._is_warm():
            batches = self._stored(_awaiting_signals(super().__iter__()), first)
        else:
            self._end_workers()
            assert self.batch_sampler is not None
            batches = self._stored((self._images.load(keys) for keys in self.batch_sampler), first)
        pinned = (_pin(batch) for batch in batches) if torch.cuda.is_available() else batches
        return ahead(pinned) if self._loads_ahead else pinned

    def dead_worker(self, pids: Sequence[int]) -> str | None:
        """Return the path of the image that one of these processes was reading, if it is a worker of this loader."""
        workers = getattr(self._iterator, "_workers", ())
        rows = [self._reading[number] for number, worker in enumerate(workers) if worker.pid in pids]
        return next((self._images.path(row) for row in rows if row >= 0), None)

    def _is_warm(self) -> bool:
        store = self._images.store
        return store is not None and bool((~store.has(self._order.rows)).mean() <= WARM_SHARE)

    def _stored(self, found: Iterable[Loaded | UserError], first: int) -> Iterator[Batch]:
        store = self._images.store
        is_new = False
        for number, loaded in enumerate(found, start=first + 1):
            if isinstance(loaded, UserError):
                raise loaded
            for row, pixels in loaded.decoded:
                assert store is not None
                store.add(row, pixels)
                is_new = True
            # Before the last batch: Lightning counts, and takes the generator down instead of running it to its end,
            # where an interrupt would be lost.
            if number == len(self) and is_new and store is not None:
                store.commit()
                # They do not know what is new in the store.
                self._end_workers()
                yield loaded.batch
                return
            yield loaded.batch

    def _end_workers(self) -> None:
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001
            self._iterator = None


class _Begun(NamedTuple):
    """The part of an epoch that was seen before a run was interrupted."""

    num_batches: int = 0
    num_images: int = 0


class _SharedBatches(Sampler[list[SampleKey]]):
    """The part of each batch that is this process's."""

    def __init__(self, sampler: EpochSampler, sizes: Sequence[int], share: Share) -> None:
        self._sampler = sampler
        self._sizes = sizes
        self._share = share
        self._begun = _Begun()

    def __len__(self) -> int:
        return len(self._sizes)

    def start_at(self, begun: _Begun) -> None:
        """Leave out what was seen already, in the next iteration; the sampler is told by itself."""
        self._begun = begun

    def __iter__(self) -> Iterator[list[SampleKey]]:
        begun, self._begun = self._begun, _Begun()
        sizes = self._sizes[begun.num_batches :]
        if begun.num_images != sum(self._sizes[: begun.num_batches]):
            sizes = even_parts(sum(self._sizes) - begun.num_images, len(sizes))
        keys = iter(self._sampler)
        for size in sizes:
            yield self._share.of(list(islice(keys, size)))


class _ErrorsAsValues(Dataset[Loaded | UserError]):
    def __init__(self, dataset: ImageDataset, reading: MutableSequence[int]) -> None:
        self._dataset = dataset
        self._reading = reading

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, keys: list[SampleKey]) -> Loaded | UserError:
        info = get_worker_info()
        assert info is not None

        def tell(row: int) -> None:
            self._reading[info.id] = row

        try:
            return self._dataset.load(keys, tell=tell)
        except UserError as error:
            return error
        finally:
            tell(-1)


@contextmanager
def told_dead_workers() -> Iterator[None]:
    """Turn the end of a loader process into an error that names the image it was reading.

    Raises:
        UserError: then.
    """
    try:
        yield
    except RuntimeError as error:
        found = DEAD_WORKER.search(str(error))
        if found is None:
            raise
        pids = [int(word) for word in found[1].split(",")]
        path = next((path for loader in list(LOADERS) if (path := loader.dead_worker(pids))), None)
        reason = str(error).partition("\n")[0].partition(": ")[2].rstrip(". ")
        raise UserError(
            f"a loader process ended {f'while it read {path}' if path else 'between two images'} ({reason})",
            "images that can be decoded, in processes that nobody ends; a killed one was perhaps too large for memory",
            "look at that file, or read in one process, which says more: data.num_workers=0",
        ) from error


SIGNAL_SECONDS = 5.0
"""Longest time between the end of a process and its signal."""


def _awaiting_signals(found: Iterable[Loaded | UserError]) -> Iterator[Loaded | UserError]:
    """Give torch the time to say which process ended, where its batch was to be fetched from it still."""
    try:
        yield from found
    except (ConnectionError, EOFError):
        # Its connections are closed before the signal of its end comes, which is raised as an error from within here.
        time.sleep(SIGNAL_SECONDS)
        raise


def _pin(batch: Batch) -> Batch:
    draws = None if batch.draws is None else batch.draws.pin_memory()
    return Batch(batch.images.pin_memory(), batch.targets.pin_memory(), batch.indices.pin_memory(), draws)


def _already_collated(batch: Any) -> Any:
    return batch


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
