"""The store of what one frozen trunk makes of images, or of their pixels: key, place, room."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import timm
import torch
import torchvision

from tlcli.backbones.protocol import Backbone
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.store.row_ids import first_appearances
from tlcli.data.store.store_manifest import is_store, read_manifest
from tlcli.data.store.tensor_store import TensorStore, digest_of_key
from tlcli.engine.runtime import Runtime
from tlcli.errors import ConfigError, DataError, MachineError
from tlcli.models.boundary import SplitNetwork
from tlcli.models.frozen_proof import digests_of
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_places import (
    PIXELS,
    begin_use,
    bytes_of_store,
    fits,
    is_in_use,
    make_room,
    trunk_path,
)
from tlcli.recipes.trunk_rows import Views
from tlcli.results.counted import size_text

_ANY = 1 << 16
"""Rows per shard where only their number counts."""
_DECODER = f"Pillow {PIL.__version__}, torchvision {torchvision.__version__}"
_FORMAT = 1
"""Of how values are computed; raised when the same options come to mean other numbers."""


def key_of_trunk(
    split: SplitNetwork, *, backbone: Backbone, runtime: Runtime, dtype: str, is_folded: bool
) -> dict[str, Any]:
    """Return all that decides what crosses a boundary, but for the image and its view.

    Args:
        split: Its trunk before BatchNorms were folded.
        backbone: That the network is of.
        runtime: Device and precision.
        dtype: In which values are kept.
        is_folded: Whether the trunk that computes has its BatchNorms folded.
    """
    source = backbone.name.partition("/")[0]
    library = {"timm": timm, "torchvision": torchvision}[source]
    digests = digests_of(split.trunk.state_dict().items())
    trunk = hashlib.sha256("\n".join([split.trunk.code, *digests.values()]).encode())
    return {
        "format": _FORMAT,
        "model": backbone.name,
        "trunk": trunk.hexdigest(),
        "values": list(split.names),
        "library": f"{source} {library.__version__}",
        "torch": torch.__version__,
        "device": runtime.device.type,
        "preprocessing": backbone.preprocessing.to_json(),
        "decoder": _DECODER,
        "dtype": dtype,
        "arithmetic": str(runtime.amp_dtype or torch.float32).removeprefix("torch."),
        "channels_last": runtime.channels_last,
        "batch_norms": "folded" if is_folded else "apart",
    }


def key_of_pixels(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return all that decides the pixels that a network is shown, but for image and view."""
    return {
        "format": _FORMAT,
        "model": PIXELS,
        "preprocessing": {k: v for k, v in preprocessing.to_json().items() if k != "std"},
        "decoder": _DECODER,
        "torch": torch.__version__,
        "dtype": "uint8",
    }


def key_of_pictures(*, sides: Mapping[str, int | None] | None, row_bytes: int) -> dict[str, Any]:
    """Return all that decides the rows of whole pictures, but for the picture.

    Args:
        sides: `PictureLimits` that they were made smaller to; None leaves them as they are.
        row_bytes: Of every row; a set with larger pictures has a store of its own.
    """
    return {
        "format": _FORMAT,
        "model": PIXELS,
        "sides": sides,
        "row_bytes": row_bytes,
        "decoder": _DECODER,
        "torch": torch.__version__,
        "dtype": "uint8",
    }


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a store will be written, and whether there is room for it."""

    missing: int
    """Bytes that will be written."""
    total: int
    """Bytes of the store with them."""
    is_enough: bool
    option: str
    """That asks for it."""
    remedy: str
    """What makes less of it."""


def room_for(
    key: Mapping[str, Any],
    *,
    views: Sequence[Views],
    row_bytes: int,
    limit: int,
    option: str,
    remedy: str = "fewer --views",
    talk: Talk,
) -> Room:
    """Say how much of some views is still to be stored, and whether that fits.

    A store whose manifest is damaged is deleted first.

    Args:
        key: From `key_of_trunk`.
        views: That will be asked for; none where nothing will be stored.
        row_bytes: Of one of them.
        limit: Bytes that all such stores may take.
        option: That asks for it.
        remedy: What makes less of it.
        talk: Is told of a store that was deleted.

    Raises:
        DataError: If another run uses a damaged store.
        MachineError: If the folder cannot be read.
    """
    path = _path_of(key)
    if views:
        _delete_damaged(path, option=option, talk=talk)
    missing = sum(len(first_appearances(one.ids)) for one in views) * row_bytes
    if is_store(path):
        with suppress(DataError):  # a damaged shard: what is computed again is not told apart here
            store = TensorStore.open(path)
            plans = [store.plan(one.ids, rows_per_shard=_ANY) for one in views]
            missing = sum(len(plan) for part in plans for plan in part) * row_bytes
    return Room(
        missing=missing,
        total=bytes_of_store(path) + missing,
        is_enough=fits(missing, limit=limit, keep=path),
        option=option,
        remedy=remedy,
    )


def open_store(
    key: Mapping[str, Any], *, room: Room, limit: int, talk: Talk
) -> tuple[TensorStore, Callable[[], None]]:
    """Open the store of a trunk, or begin it, and delete others that were not used for longest.

    Args:
        key: From `key_of_trunk`.
        room: From `room_for`.
        limit: Bytes that all such stores may take.
        talk: Is told of what was deleted.

    Returns:
        The store, and what ends its use: until then no other run deletes it.

    Raises:
        ConfigError: If there is no room.
        MachineError: If the folder cannot be written to.
    """
    path = _path_of(key)
    if not room.is_enough:
        left = "" if room.missing == room.total else f", {size_text(room.missing)} of them new,"
        raise ConfigError(
            f"{room.option} disk: {size_text(room.total)}{left} do not fit --cache-limit "
            f"({size_text(limit)}) or the disk of {path.parent}. Use {room.remedy}, a larger "
            f"--cache-limit, 'tlcli cache clear', or {room.option} off."
        )
    for folder in make_room(room.missing, limit=limit, keep=path):
        talk.note(f"Deleted {folder.path} ({size_text(folder.bytes)}), not used for longest.")
    store = TensorStore.open_or_create(path, key=key)
    for remark in store.remarks:
        talk.warn(remark)
    return store, begin_use(path)


def _delete_damaged(path: Path, *, option: str, talk: Talk) -> None:
    """Delete a store that nothing can be read from, unless the disk is to blame."""
    if not is_store(path):
        return
    try:
        read_manifest(path)
    except DataError as error:
        if isinstance(error.__cause__, OSError):
            raise MachineError(
                f"'{path}' cannot be read ({error.__cause__}). Try again when the disk can be "
                f"read, or use {option} ram."
            ) from error
        if is_in_use(path):
            raise DataError(
                f"'{path}' is damaged, and another run uses it: wait for its end, or use {option} "
                "ram."
            ) from error
        TensorStore.delete(path)
        reason = error.__cause__ or "another version of tlcli wrote it"
        talk.warn(f"'{path}' was damaged ({reason}) and is begun anew.")


def _path_of(key: Mapping[str, Any]) -> Path:
    return trunk_path(key["model"], key_digest=digest_of_key(key))
