"""Starting weights: published ones, fetched from a hub, or a file; never replaced by random ones in silence."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError, enumerate_words, first_line, reason_of
from classifier_training.core.files import refuse_devices
from classifier_training.core.manifest import refuse_damaged
from classifier_training.core.register import with_settings
from classifier_training.core.types import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from classifier_training.core.settings import Pretrained
    from classifier_training.core.types import BuiltModel


def wants_published(pretrained: Pretrained, weights: str | None) -> bool:
    """Whether a network starts from published weights; with auto, not if a file is given.

    Raises:
        UserError: when both published weights and a file are asked for.
    """
    if pretrained is True and weights is not None:
        raise UserError(
            f"model.pretrained=true and model.weights={weights}: only one of them can be loaded",
            "one of them",
            "leave model.pretrained out to start from the file",
        )
    return pretrained is not False and weights is None


def without_weights(build: Callable[..., BuiltModel]) -> Callable[..., BuiltModel]:
    """Return a builder of the same network with random weights; nothing is read or fetched."""
    return with_settings(build, pretrained=False, weights=None)  # type: ignore[no-any-return]


def unfetched(came: str, error: Exception, *, cached_at: str, takes_file: bool = True) -> UserError:
    """Return the error for published weights that cannot be fetched.

    Args:
        came: description of the weights.
        error: why.
        cached_at: where they are searched without a connection.
        takes_file: whether the network can start from a file instead.
    """
    file = "a file: model.weights=/path/to/weights.safetensors; or " if takes_file else ""
    return UserError(
        f"{came} cannot be fetched ({reason_of(error)})",
        f"a connection to fetch them once, or the weights in {cached_at}",
        "connect; or take model=auto (model=tf_efficientnet_lite0), whose weights come with this package; or "
        f"{file}random weights: model.pretrained=false",
    )


def load_weights_file(network: nn.Module, path: str, *, head: tuple[str, ...]) -> Weights:
    """Load a safetensors or PyTorch file into a network; a head for other classes keeps its random start.

    Args:
        network: what to load into, in place.
        path: .safetensors, or a PyTorch file that holds tensors alone.
        head: prefixes of the classifier's parameters.

    Returns:
        What was loaded.

    Raises:
        UserError: when the file cannot be read or is of another network.
    """
    file = Path(path).expanduser()
    has_head = load_state(network, _read_state(file), head=head, came=f"model.weights={path}")
    return Weights(file.name, f"file {file}", has_head=has_head)


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, head: tuple[str, ...], came: str) -> bool:
    """Load a table of tensors into a network; a head for other classes keeps its random start.

    Args:
        network: what to load into, in place.
        state: tensors by name.
        head: prefixes of the classifier's parameters.
        came: description of the source of the tensors.

    Returns:
        Whether the head was loaded too.

    Raises:
        UserError: when it is of another network.
    """
    own: dict[str, Tensor] = network.state_dict()
    headless = {name: value for name, value in state.items() if not name.startswith(head) or _fits(own, name, value)}
    missing = [name for name in own if name not in headless and not name.startswith(head)]
    strange = [name for name, value in headless.items() if not _fits(own, name, value)]
    if missing or strange:
        raise UserError(
            f"{came} is of another network: {len(missing)} tensors are missing and {len(strange)} do not "
            f"fit ({enumerate_words([*missing, *strange], limit=3)})",
            "weights saved from the same model=",
            "choose the model that the file was saved from",
        )
    has_head = all(name in headless for name in own if name.startswith(head))
    # Updated in place, because state dicts carry version metadata that some networks check.
    own.update(headless)
    network.load_state_dict(own)
    return has_head


def load_trained_weights(network: nn.Module, path: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Load all weights of a run: from its safetensors file, or a checkpoint.

    Args:
        network: what to load into, in place.
        path: of the file.
        state: what it holds, where that has been read.

    Raises:
        UserError: when the file is missing, damaged, or of another network.
    """
    state = trained_state(path) if state is None else state
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # the last two for values that are no tensors
        raise _unusable(path, error) from error


def trained_state(path: Path) -> dict[str, Tensor]:
    """Return the weights of a run by name: from its safetensors file, or a checkpoint.

    Raises:
        UserError: when the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_devices(path)
    if path.suffix != ".safetensors":
        refuse_damaged(path)
        found = read_tensors(path)
        kept = found.get("state_dict") if isinstance(found, dict) else None
        if not isinstance(kept, dict) or not all(isinstance(name, str) for name in kept):
            raise _unusable(path, ValueError("holds no weights"))
        # The projections of feature hints are in a student's checkpoint, too, and no part of the network.
        return {
            name.removeprefix("network."): value for name, value in kept.items() if not name.startswith("distillation.")
        }
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> UserError:
    reason = "is missing" if isinstance(error, FileNotFoundError) else first_line(error)
    return UserError(
        f"{path}: {reason}",
        "the weights that the run wrote, for the model in its config.yaml",
        "restore both from a copy of the run folder",
    )


def _fits(own: Mapping[str, Tensor], name: str, value: Tensor) -> bool:
    return name in own and own[name].shape == value.shape


def read_tensors(path: Path, *, map_location: Any = "cpu") -> Any:
    """Read a PyTorch file of tensors and plain values, without executing code in it.

    Raises:
        UserError: when the file is missing, damaged, or contains anything else.
    """
    import torch

    refuse_devices(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # which exception a damaged file raises depends on the damage
        reason = _why_unreadable(path) or first_line(error)
        raise UserError(
            f"{path}: cannot be read ({reason})",
            "a PyTorch file of only tensors and plain values",
            "check the path, or take another file",
        ) from error


def _why_unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        return "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
    # A ZIP archive, or a bare pickle as PyTorch wrote until 1.5.
    return None if start in (b"PK", b"\x80\x02") else "it is no PyTorch file"


STATE_NAMES = ("state_dict", "model_state_dict")
"""What training scripts call the network's state_dict in a file that has more, such as the optimizer's."""


def _read_state(path: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_devices(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"model.weights={path}: cannot be read ({error})", "a .safetensors file", "check the path"
            ) from error
    state = read_tensors(path)
    for name in STATE_NAMES:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f"model.weights={path}: contains no state_dict",
            "a state_dict",
            "save model.state_dict() and nothing else",
        )
    return state


CONNECT_SECONDS = 10.0


@contextmanager
def hub_access() -> Iterator[Exception | None]:
    """Set the hub's client to offline mode inside the block if there is no connection.

    Otherwise the client retries for most of a minute, with a warning each time.

    Yields:
        The connection error; None if there is a connection.
    """
    from huggingface_hub import constants

    error = _connection_error(constants.ENDPOINT)
    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or error is not None
    try:
        yield error
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def _connection_error(address: str) -> Exception | None:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=CONNECT_SECONDS)
    except Exception as error:  # noqa: BLE001 - the client's HTTP library has changed before
        return error
    return None
