"""How pretrained weights come to this machine, in the caches that the two libraries share.

`cached_*` only look at the disk and never open a socket; `download_*` fail within seconds where
there is no network. torch is loaded for a download from a URL alone, so that listings are quick.
"""

import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tlcli.errors import MachineError, TlcliError, WeightsError

HUB_FILENAMES = ("model.safetensors", "pytorch_model.bin")
"""What a model's repository may call its weights, best first."""
CONNECT_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 30.0

# The convention of torch.hub; its own pattern also takes the "300e" of "-300e.pth.tar" for a hash.
_HASH = re.compile(r"-([0-9a-f]{8,})\.[a-z.]+$")
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
# The base of huggingface_hub's own errors is its HTTP library's, once requests and then httpx.
_HUB_FAILURES: tuple[type[BaseException], ...] = (
    OSError,
    RuntimeError,
    HFValidationError,
    *HfHubHTTPError.__bases__,
)


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """Where the libraries get a file of published weights from, and keep it."""

    repo_id: str | None = None
    """Of the Hugging Face hub."""
    filename: str | None = None
    """In that repository; None is one of `HUB_FILENAMES`."""
    url: str | None = None


def cached_file(file: PublishedFile) -> Path | None:
    """Return a published file if this machine has it; opens no socket."""
    found = cached_hub_file(file.repo_id, file.filename) if file.repo_id else None
    return found or (cached_url_file(file.url) if file.url else None)


def sha_prefix_of(url: str) -> str | None:
    """Return the first digits of the SHA-256 that a file name promises, None if it has none.

    `resnet50-11ad3fa6.pth` promises 11ad3fa6: the convention of `torch.hub`.
    """
    found = _HASH.search(_file_name(url))
    return found[1] if found else None


def cached_url_file(url: str) -> Path | None:
    """Return where torch.hub has stored a URL's file, None if it has not; opens no socket."""
    path = _url_cache_path(url)
    return path if path.is_file() else None


def download_url(url: str) -> Path:
    """Download a file into torch.hub's cache (`TORCH_HOME`), unless it is there already.

    The hash in the file's name is checked while downloading; a file that differs is not kept.

    Raises:
        WeightsError: If the file is not to be had or has another hash.
        MachineError: If it cannot be stored.
    """
    path = _url_cache_path(url)
    if path.is_file():
        return path
    import torch.hub

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_answers(url)
        with _stall_timeout():
            torch.hub.download_url_to_file(
                url, str(path), sha_prefix_of(url), progress=sys.stderr.isatty()
            )
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise _as_our_error(error, what=url, folder=path.parent) from error
    return path


def cached_hub_file(
    repo_id: str, filename: str | None = None, *, revision: str | None = None
) -> Path | None:
    """Return a file of the Hugging Face cache, None if it is not there; opens no socket.

    Args:
        repo_id: Such as `timm/resnet18.a1_in1k`; timm's form `timm/name@revision` is understood.
        filename: None looks for `HUB_FILENAMES` in turn.
        revision: Branch, tag or commit; None is the one in `repo_id`, else `main`.

    Raises:
        WeightsError: If `repo_id` is none that could exist.
    """
    repo, revision = _split_revision(repo_id, revision)
    for name in _candidates(filename):
        try:
            found = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
        except HFValidationError as error:
            raise _as_our_error(error, what=repo_id, folder=_hub_cache()) from error
        if isinstance(found, str):
            return Path(found)
    return None


def download_hub_file(
    repo_id: str, filename: str | None = None, *, revision: str | None = None
) -> Path:
    """Download a file of a Hugging Face repository into its cache; arguments as above.

    Raises:
        WeightsError: If the file is not to be had.
        MachineError: If it cannot be stored.
    """
    repo, revision = _split_revision(repo_id, revision)
    names = _candidates(filename)
    try:
        for name in names:
            if _hub_has(repo, name, revision=revision):
                return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
    except _HUB_FAILURES as error:
        raise _as_our_error(error, what=f"{repo_id} from the hub", folder=_hub_cache()) from error
    raise WeightsError(f"Cannot download {repo_id} from the hub: it has no {' or '.join(names)}.")


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def _url_cache_path(url: str) -> Path:
    """Return where torch.hub keeps a file, found as `torch.hub.get_dir` does."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser()
    return home / "hub" / "checkpoints" / _file_name(url)


def _hub_cache() -> Path:
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def _candidates(filename: str | None) -> tuple[str, ...]:
    return HUB_FILENAMES if filename is None else (filename,)


def _split_revision(repo_id: str, revision: str | None) -> tuple[str, str | None]:
    repo, _, suffix = repo_id.partition("@")
    if suffix and revision is not None and suffix != revision:
        raise ValueError(f"two revisions: '{suffix}' in '{repo_id}', and '{revision}'")
    return repo, revision or suffix or None


def _hub_has(repo: str, name: str, *, revision: str | None) -> bool:
    """Ask the hub once for a file, because `hf_hub_download` itself tries for 23 s in vain."""
    url = huggingface_hub.hf_hub_url(repo, name, revision=revision)
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=CONNECT_TIMEOUT_S)
    except EntryNotFoundError:
        return False
    return True


def _check_answers(url: str) -> None:
    """Raise URLError unless the server answers soon; torch.hub would wait for ever."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=CONNECT_TIMEOUT_S):
            pass
    except HTTPError as error:
        error.close()  # it answers; whether it gives the file is seen when we ask for that


@contextmanager
def _stall_timeout() -> Iterator[None]:
    """Let sockets give up when nothing arrives; torch.hub cannot be told a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _as_our_error(error: BaseException, *, what: str, folder: Path) -> TlcliError:
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        return MachineError(
            f"Cannot store {what} in {folder}: {error.strerror}. "
            "Make room there, or choose another folder with TORCH_HOME or HF_HOME."
        )
    return WeightsError(f"Cannot download {what}: {_short_reason(error)}.")


def _short_reason(error: BaseException) -> str:
    """Say in a few words what is at the bottom of a failed download."""
    if isinstance(error, GatedRepoError):
        return "access has to be granted by its owners; ask on its page, then run 'hf auth login'"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private and needs 'hf auth login'"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it"
    if isinstance(error, HfHubHTTPError):
        return f"the server answers {error.response.status_code}"
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return _root_reason(error)


def _root_reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, URLError) else error.__cause__ or error.__context__
    if isinstance(cause, BaseException):
        return _root_reason(cause)
    if isinstance(error, socket.gaierror):
        return "the server's name cannot be looked up; there seems to be no network"
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0][:160].rstrip(".")
