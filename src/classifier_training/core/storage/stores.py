"""The remote stores behind URLs: one small interface over obstore, Hugging Face and the index pages of web servers.

Credentials and addresses come from the usual places: the variables AWS_*, GOOGLE_* and AZURE_*, the profile in
~/.aws, and Hugging Face's own. Without any, files are read anonymously, as public data allows.
"""

from __future__ import annotations

import asyncio
import configparser
import os
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import unquote, urljoin, urlsplit

from classifier_training.core.errors import UserError, first_line, refuse_missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

REQUEST_SECONDS = 60
"""Longest time of one request."""

STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w+)</Code>")
AGAIN = {408, 425, 429}
"""Answers of the 400s after which another try may succeed."""

CREDENTIALS = {
    "s3": (
        "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_TOKEN", "AZURE_CLIENT_ID", "AZURE_USE_AZURE_CLI", "AZURE_FEDERATED_TOKEN_FILE",
    ),
}  # fmt: skip
"""Variables of which one is set where there are credentials."""


class Object(NamedTuple):
    """A file of a store as a listing names it.

    Args:
        key: path below the bucket, container, host or repository.
        num_bytes: its size; None where the listing does not state it.
        version: ETag, or another text that changes with the content; empty where the listing does not state it.
    """

    key: str
    num_bytes: int | None = None
    version: str = ""


class RefusedError(OSError):
    """An answer that another try does not change."""


class Store(Protocol):
    """A bucket, container, web server or repository.

    Attributes:
        where: the setting of its address and credentials, for messages.
        remedy: what to do when it refuses, for messages.
    """

    where: str
    remedy: str

    async def get(self, key: str) -> tuple[bytes, str]:
        """Return the content of a file and its version, which is empty where the answer has none.

        Raises:
            FileNotFoundError: when there is no such file.
            PermissionError: when it may not be read.
            RefusedError: for another answer that stays the same.
            OSError: when another try may succeed.
        """

    def list(self, prefix: str, *, after: str) -> Iterator[Object]:
        """Yield the files below a prefix, from the one after `after`; errors are those of `get`."""


@runtime_checkable
class WritableStore(Protocol):
    """A store that can be written to; errors are those of `Store.get`."""

    async def put(self, key: str, content: bytes | Path) -> None:
        """Write a file, which appears when all of it is there."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove files."""


def open_store(base: str) -> Store:
    """Open the store of a URL's beginning, as `split_url` returns it.

    Raises:
        UserError: when the optional extra is not installed.
    """
    scheme, _, place = base.partition("://")
    if scheme == "hf":
        return HubStore(place)
    refuse_missing("remote", purpose=f"reading {base}")
    return WebStore(base) if scheme in ("http", "https") else BucketStore(scheme, place)


class BucketStore:
    """A bucket of S3 or a server of its protocol, of Google Cloud Storage, or a container of Azure.

    Without credentials it is read anonymously; where that is refused, as the machine's own role in its cloud.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        self._scheme, self._bucket = scheme, bucket
        self._is_anonymous = False
        config: dict[str, Any] = _aws_profile() if scheme == "s3" else {}
        address = config.get("endpoint", "")
        if scheme == "s3":
            address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or address
        self._config = {**config, **({"endpoint": address} if address else {})}
        # Whoever gives an address without TLS wants it so.
        self._is_plain = address.startswith("http://")
        words = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*"}[scheme]
        self.where = f"AWS_ENDPOINT_URL={address}" if address else f"the variables {words}"
        self.remedy = (
            f"check the spelling, and the credentials in the variables {words}"
            f"{' or the profile AWS_PROFILE' if scheme == 's3' else ''}"
        )
        has_credentials = "access_key_id" in config or any(map(os.environ.get, CREDENTIALS[scheme]))
        self._store = self._opened(anonymous=not has_credentials)

    def _opened(self, *, anonymous: bool) -> Any:
        import obstore
        from obstore import store

        # Its overloads do not know a scheme that is chosen at run time.
        from_url: Any = store.from_url
        self._is_anonymous = anonymous
        try:
            return from_url(
                f"{self._scheme}://{self._bucket}",
                config={**self._config, **({"skip_signature": True} if anonymous else {})},
                client_options={"allow_http": True} if self._is_plain else {},
                retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)},
            )
        except obstore.exceptions.BaseError as error:
            raise UserError(
                f"{self._scheme}://{self._bucket}: {_cause(str(error))}",
                "complete credentials and the address of the store, or none for public data",
                self.remedy,
            ) from error

    async def get(self, key: str) -> tuple[bytes, str]:
        """Return the content of a file and its ETag."""
        import obstore

        store = self._store
        try:
            found = await obstore.get_async(store, key)
            return bytes(await found.bytes_async()), found.meta["e_tag"] or ""
        except (obstore.exceptions.BaseError, OSError) as error:
            raised = _raised(error)
            if not self._takes_role(store, raised):
                raise raised from error
        return await self.get(key)

    def list(self, prefix: str, *, after: str) -> Iterator[Object]:
        """Yield the files below a prefix, from the one after `after`."""
        import obstore

        begin, store = f"{prefix}/" if prefix else "", self._store
        try:
            for chunk in obstore.list(store, prefix or None, offset=after or None):
                for found in chunk:
                    if found["path"].startswith(begin):
                        yield Object(found["path"], found["size"], found["e_tag"] or str(found["last_modified"]))
                        after = found["path"]
        except (obstore.exceptions.BaseError, OSError) as error:
            raised = _raised(error)
            if not self._takes_role(store, raised):
                raise raised from error
        else:
            return
        yield from self.list(prefix, after=after)

    async def put(self, key: str, content: bytes | Path) -> None:
        """Write a file, which appears when all of it is there."""
        import obstore

        await self._changed(lambda store: obstore.put_async(store, key, content))

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove files."""
        import obstore

        await self._changed(lambda store: obstore.delete_async(store, keys))

    async def _changed(self, work: Callable[[Any], Awaitable[Any]]) -> None:
        import obstore

        store = self._store
        try:
            await work(store)
        except (obstore.exceptions.BaseError, OSError) as error:
            raised = _raised(error)
            if not self._takes_role(store, raised):
                raise raised from error
            await self._changed(work)

    def _takes_role(self, store: Any, error: OSError) -> bool:
        """Whether a request to `store` was refused as anonymous, and another has the machine's own role."""
        if not isinstance(error, PermissionError):
            return False
        # Other requests that were under way may have been refused before.
        if store is self._store:
            if not self._is_anonymous:
                return False
            self._store = self._opened(anonymous=False)
        return True


def _raised(error: Exception) -> OSError:
    """Return an error of obstore as one of those of `Store.get`."""
    text = str(error)
    status, code = STATUS.search(text), CODE.search(text)
    words = " ".join([*([status[1]] if status else []), *([code[1]] if code else [])]) or _cause(text)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(None, words)
    if status and status[1] in ("401", "403"):
        return PermissionError(None, f"the store refuses ({words})")
    if status and 300 <= int(status[1]) < 500 and int(status[1]) not in AGAIN:
        return RefusedError(None, f"the store refuses ({words})")
    return OSError(None, f"the store does not answer ({words})" if not status else f"the store answers {words}")


def _cause(text: str) -> str:
    """Return the reason at the end of obstore's message, which its debug output follows."""
    return text.partition("\n\nDebug source")[0].rpartition(": ")[2].strip() or first_line(ValueError(text))


def _aws_profile() -> dict[str, Any]:
    """Return keys, region and address of the profile AWS_PROFILE in ~/.aws, which obstore does not read."""
    name = os.environ.get("AWS_PROFILE") or "default"
    folder = Path("~/.aws").expanduser()
    credentials, config = configparser.RawConfigParser(), configparser.RawConfigParser()
    credentials.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials")
    config.read(os.environ.get("AWS_CONFIG_FILE") or folder / "config")
    found: dict[str, str] = {}
    for parser, section in ((config, name if name == "default" else f"profile {name}"), (credentials, name)):
        found |= dict(parser[section]) if parser.has_section(section) else {}
    names = {"region": "region", "endpoint_url": "endpoint"}
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        names |= {
            "aws_access_key_id": "access_key_id",
            "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token",
        }
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found} | (
        {"region": region} if region else {}
    )


class WebStore:
    """A web server whose folders have index pages, as those of Apache, nginx and `python -m http.server`."""

    def __init__(self, base: str) -> None:
        from obstore.store import HTTPStore

        self._base = base
        self.where, self.remedy = base, "check the address; the server must show its folders as pages of links"
        self._store = HTTPStore.from_url(
            base,
            client_options={"allow_http": base.startswith("http://")},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)},
        )

    async def get(self, key: str) -> tuple[bytes, str]:
        """Return the content of a file; the pages do not show a version to compare with."""
        import obstore

        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async()), ""
        except (obstore.exceptions.BaseError, OSError) as error:
            raise _raised(error) from error

    def list(self, prefix: str, *, after: str) -> Iterator[Object]:
        """Yield the files below a folder, from the one after `after`: one request for each folder."""
        for name, version in sorted(self._links(prefix)):
            key = f"{prefix}/{name}".strip("/")
            if name.endswith("/"):
                if f"{key}/\U0010ffff" > after:
                    yield from self.list(key, after=after)
            elif key > after:
                yield Object(key, None, version)

    def _links(self, folder: str) -> set[tuple[str, str]]:
        import urllib.error
        import urllib.request
        from urllib.parse import quote

        url = f"{self._base}/{quote(folder)}/" if folder else f"{self._base}/"
        try:
            with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as page:  # noqa: S310 - http or https alone
                text, real = page.read().decode(errors="replace"), page.url
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(None, "no such folder") from error
            kind = PermissionError if error.code in (401, 403) else RefusedError if error.code < 500 else OSError
            raise kind(None, f"the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(None, f"the server does not answer ({error.reason})") from error
        parser = IndexPage(real)
        parser.feed(text)
        return {(name, " ".join(words.split())) for name, words in parser.links.items()}


class IndexPage(HTMLParser):
    """The links of a folder's page to what is directly inside it, each with the text after it: time and size."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._name: str | None = None
        self._is_inside = False
        self.links: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a link."""
        target = dict(attrs).get("href")
        if tag != "a" or not target:
            return
        parts, here = urlsplit(urljoin(self._url, target)), urlsplit(self._url)
        name = unquote(parts.path).removeprefix(unquote(here.path))
        is_below = parts.path.startswith(here.path) and parts.netloc == here.netloc and not parts.query
        self._name = name if is_below and name and "/" not in name.rstrip("/") else None
        self._is_inside = True
        if self._name is not None:
            self.links.setdefault(self._name, "")

    def handle_endtag(self, tag: str) -> None:
        """End a link."""
        self._is_inside = self._is_inside and tag != "a"

    def handle_data(self, data: str) -> None:
        """Take the text after a link."""
        if self._name is not None and not self._is_inside:
            self.links[self._name] += f" {data}"


class HubStore:
    """A repository of the Hugging Face Hub: hf://datasets/owner/name, with @revision after the name if wished."""

    def __init__(self, place: str) -> None:
        kinds = {"datasets": "dataset", "spaces": "space"}
        kind, _, rest = place.partition("/")
        self._kind = kinds.get(kind, "model")
        self._name, _, revision = (rest if kind in kinds else place).partition("@")
        self._revision = revision or "main"
        self.where, self.remedy = "HF_ENDPOINT", "check the spelling, and log in for what is not public: hf auth login"

    async def get(self, key: str) -> tuple[bytes, str]:
        """Return the content of a file; the listing has another version than the answer."""
        return await asyncio.to_thread(self._get, key), ""

    def _get(self, key: str) -> bytes:
        import httpx
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self._name, key, repo_type=self._kind, revision=self._revision)
        try:
            answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True, timeout=REQUEST_SECONDS)
            hf_raise_for_status(answer)
        except (HfHubHTTPError, httpx.HTTPError) as error:
            raise _of_hub(error) from error
        return answer.content

    def list(self, prefix: str, *, after: str) -> Iterator[Object]:
        """Yield the files below a prefix, from the one after `after`."""
        import httpx
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.hf_api import RepoFile

        try:
            tree = HfApi().list_repo_tree(
                self._name, prefix or None, recursive=True, repo_type=self._kind, revision=self._revision
            )
            files = [Object(found.path, found.size, found.blob_id) for found in tree if isinstance(found, RepoFile)]
        except (HfHubHTTPError, httpx.HTTPError) as error:
            raise _of_hub(error) from error
        yield from sorted(file for file in files if file.key > after)


def _of_hub(error: Exception) -> OSError:
    """Return an error of huggingface_hub as one of those of `Store.get`."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    words = f"the hub answers {status}" if status else f"the hub does not answer ({first_line(error)})"
    if status == 404:
        return FileNotFoundError(None, "no such file or repository")
    if status in (401, 403):
        return PermissionError(None, words)
    return RefusedError(None, words) if 300 <= status < 500 and status not in AGAIN else OSError(None, words)
