"""Batch loader: uses worker processes while images are decoded, and none once their pixels are in the store."""

from __future__ import annotations

import functools
import multiprocessing
import os
import queue
import re
import threading
import time
from collections import deque
from contextlib import contextmanager
from itertools import chain, islice
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

Contents = list[bytes | OSError | None]

DEPTH = 2
POLL_SECONDS = 0.1


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, of which a thread computes up to two in advance; its errors are raised here."""
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
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            put(error)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while (found := waiting.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stopped.set()
        thread.join()


FETCHED = 256
"""Images that are fetched at the same time from another machine: more in flight hide its latency."""

WARM_SHARE = 0.02
"""Share of an epoch's images, still to be decoded, up to which worker processes do not pay."""


LOADERS: WeakSet[BatchLoader] = WeakSet()
"""Loaders of this process: torch reports a dead worker anywhere in the program, without naming its loader."""

DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


class BatchLoader(DataLoader[Batch]):
    """Loads the batches of one split, in this process or in workers, and adds decoded images to the store.

    torch rebuilds a worker's exception from a single text, which is impossible for ours, so workers return them.

    Args:
        dataset: what to load.
        sampler: in which order.
        batch_size: images in a batch at the most.
        sizes: images in each batch; whole batches and the rest when left out.
        num_workers: loader processes, while images are decoded.
        loads_ahead: whether a thread of this process prefetches batches; useful beside a GPU, not on a busy CPU.
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
            # Tensors are then sent by named shared memory, without a file descriptor for each.
            torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
        if sizes is None:
            whole, rest = divmod(len(sampler), batch_size)
            sizes = [batch_size] * whole + [rest] * (rest > 0)
        batches = _SharedBatches(sampler, sizes, share, num_ahead=0 if dataset.is_local else num_workers)
        reading = RawArray("q", [-1] * max(num_workers, 1))
        super().__init__(
            _ErrorsAsValues(dataset, reading),  # type: ignore[arg-type]
            batch_sampler=batches,  # type: ignore[arg-type] # the dataset takes what it yields
            collate_fn=_already_collated,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_one_thread,
            # The threads of clients of object stores do not survive a fork.
            multiprocessing_context=None if dataset.is_local or not num_workers else _server(),
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
        # Evaluated at the first batch, because Lightning sets the epoch after it calls iter().
        begun, self._begun = self._begun, _Begun()
        self._num_given = begun.num_batches
        for batch in self._from(begun):
            self._num_given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Progress within the epoch, for Lightning."""
        num_batches = self._num_given % len(self)
        num_images = sum(self._sizes[:num_batches])
        return {"num_batches": num_batches, "num_images": num_images, "batch_size": self._batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next epoch where an interrupted one stopped.

        Raises:
            UserError: when it had batches of another size.
        """
        if state_dict["num_batches"] and state_dict["batch_size"] != self._batch_size:
            raise UserError(
                f"the epoch stopped after {state_dict['num_batches']} batches of {state_dict['batch_size']} images, "
                f"and would resume with batches of {self._batch_size}",
                "batches of the same size until the end of the epoch",
                f"data.batch_size={state_dict['batch_size']}",
            )
        num_batches = state_dict["num_batches"]
        # Earlier versions did not save the number of images; all batches then had the same size.
        self._begun = _Begun(num_batches, state_dict.get("num_images", num_batches * self._batch_size))

    def _from(self, begun: _Begun) -> Iterator[Batch]:
        self._order.start_at(begun.num_images)
        self._batches.start_at(begun)
        first = begun.num_batches
        if self.num_workers and not self._is_warm():
            batches = self._stored(_awaiting_signals(super().__iter__()), first)
        else:
            self._end_workers()
            batches = self._stored(self._load_here(), first)
        pinned = (_pin(batch) for batch in batches) if torch.cuda.is_available() else batches
        return prefetch(pinned) if self._loads_ahead else pinned

    def _load_here(self) -> Iterator[Loaded]:
        if self._images.is_local:
            return (self._images.load(task.keys) for task in self._batches)
        fetched = _fetched(self._images, self._batches)
        return (self._images.load(keys, contents=contents) for keys, contents in fetched)

    def dead_worker(self, pids: Sequence[int]) -> str | None:
        """Return the path of the image that a dead worker of this loader was reading; None if it is not one of ours."""
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
            # Before the last batch: Lightning counts the batches and then closes the generator, and an interrupt during
            # closing would be lost.
            if number == len(self) and is_new and store is not None:
                store.commit()
                # The workers do not know the new content of the store.
                self._end_workers()
                yield loaded.batch
                return
            yield loaded.batch

    def _end_workers(self) -> None:
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001
            self._iterator = None


class _Begun(NamedTuple):
    """The part of an epoch that was done before a run was interrupted."""

    num_batches: int = 0
    num_images: int = 0


class _Task(NamedTuple):
    """A batch to load.

    Args:
        keys: of its samples.
        next_keys: of the samples of the batch that the same worker loads next, to be fetched meanwhile.
    """

    keys: list[SampleKey]
    next_keys: list[SampleKey] | None = None


class _SharedBatches(Sampler[_Task]):
    """This process's part of each batch.

    Args:
        sampler: yields the keys. Lightning sets the epoch of a batch sampler's public `sampler`, and of no other.
        sizes: images in each batch.
        share: the part.
        num_ahead: workers that take batches in turn; 0 where nothing is fetched ahead.
    """

    def __init__(self, sampler: EpochSampler, sizes: Sequence[int], share: Share, *, num_ahead: int) -> None:
        self.sampler = sampler
        self._sizes = sizes
        self._share = share
        self._num_ahead = num_ahead
        self._begun = _Begun()

    def __len__(self) -> int:
        return len(self._sizes)

    def start_at(self, begun: _Begun) -> None:
        """Skip batches that are done in the next iteration; the sampler is set separately."""
        self._begun = begun

    def __iter__(self) -> Iterator[_Task]:
        waiting: deque[list[SampleKey]] = deque()
        for keys in self._parts():
            waiting.append(keys)
            if len(waiting) > self._num_ahead:
                yield _Task(waiting.popleft(), keys if self._num_ahead else None)
        yield from map(_Task, waiting)

    def _parts(self) -> Iterator[list[SampleKey]]:
        begun, self._begun = self._begun, _Begun()
        sizes = self._sizes[begun.num_batches :]
        if begun.num_images != sum(self._sizes[: begun.num_batches]):
            sizes = even_parts(sum(self._sizes) - begun.num_images, len(sizes))
        keys = iter(self.sampler)
        for size in sizes:
            yield self._share.of(list(islice(keys, size)))


class _ErrorsAsValues(Dataset[Loaded | UserError]):
    def __init__(self, dataset: ImageDataset, reading: MutableSequence[int]) -> None:
        self._dataset = dataset
        self._reading = reading
        self._ahead: _Fetch | None = None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, task: _Task) -> Loaded | UserError:
        info = get_worker_info()
        assert info is not None

        def tell(row: int) -> None:
            self._reading[info.id] = row

        try:
            ahead, self._ahead = self._ahead, None
            # An epoch that was left early has fetched what this one does not begin with.
            contents = ahead.contents() if ahead is not None and ahead.keys == task.keys else None
            if task.next_keys is not None:
                contents = self._dataset.fetch(task.keys) if contents is None else contents
                self._ahead = _Fetch(self._dataset, task.next_keys)
            return self._dataset.load(task.keys, contents=contents, tell=tell)
        except UserError as error:
            return error
        finally:
            tell(-1)


def _fetched(images: ImageDataset, tasks: Iterable[_Task]) -> Iterator[tuple[list[SampleKey], Contents]]:
    """Yield each batch with the contents of its files; those of several batches are fetched at the same time, ahead."""
    waiting: deque[tuple[list[list[SampleKey]], _Fetch]] = deque()
    group: list[list[SampleKey]] = []
    for task in chain(tasks, [None]):
        if task is not None:
            group.append(task.keys)
        if group and (task is None or sum(map(len, group)) >= FETCHED):
            waiting.append((group, _Fetch(images, [*chain.from_iterable(group)])))
            group = []
        while waiting and (task is None or len(waiting) > 1):
            batches, fetch = waiting.popleft()
            contents = iter(fetch.contents())
            yield from ((keys, [*islice(contents, len(keys))]) for keys in batches)


class _Fetch:
    """Files of samples, fetched in the background from now on.

    All are fetched by one thread of the process, in their order, and each many files at the same time. A new thread for
    each would leave the memory of the last one behind.
    """

    def __init__(self, images: ImageDataset, keys: list[SampleKey]) -> None:
        self.keys = keys
        self._found: queue.SimpleQueue[Contents | BaseException] = queue.SimpleQueue()
        _fetches(os.getpid()).put((images, keys, self._found))

    def contents(self) -> Contents:
        """Wait for their contents; an error of fetching them is raised here."""
        found = self._found.get()
        if isinstance(found, BaseException):
            raise found
        return found


@functools.cache
def _fetches(_process: int) -> queue.SimpleQueue[Any]:
    """Start the thread of this process, and return the queue of what it is to fetch."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def serve() -> None:
        while True:
            images, keys, found = waiting.get()
            try:
                found.put(images.fetch(keys))
            except BaseException as error:  # noqa: BLE001 - raised again in the consumer
                found.put(error)
            del images, keys, found

    threading.Thread(target=serve, name="fetch", daemon=True).start()
    return waiting


def _server() -> Any:
    """Return the context of processes that are forked from one that has only imported this program's loader."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["classifier_training.data.dataset"])
    return context


@contextmanager
def explain_worker_death() -> Iterator[None]:
    """Turn the death of a worker process into an error that names the image it was reading.

    Raises:
        UserError: when a worker process died.
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
            f"a loader process died {f'while reading {path}' if path else 'between two images'} ({reason})",
            "images that can be decoded, and enough memory: the system kills processes when memory runs out",
            "check that file, or load in one process, which gives a full error: data.num_workers=0",
        ) from error


SIGNAL_SECONDS = 5.0
"""Longest time between the death of a process and its signal."""


def _awaiting_signals(found: Iterable[Loaded | UserError]) -> Iterator[Loaded | UserError]:
    """Give torch time to report which process died, if its batch could not be fetched."""
    try:
        yield from found
    except (ConnectionError, EOFError):
        # Connections close before the signal of the death arrives; torch raises its error from within the sleep.
        time.sleep(SIGNAL_SECONDS)
        raise


def _pin(batch: Batch) -> Batch:
    draws = None if batch.draws is None else batch.draws.pin_memory()
    return Batch(batch.images.pin_memory(), batch.targets.pin_memory(), batch.indices.pin_memory(), draws)


def _already_collated(batch: Any) -> Any:
    return batch


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
