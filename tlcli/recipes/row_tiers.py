"""Rows that are kept where the user wants them."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from tlcli.engine.view_pass import ViewPass
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_rows import KeptRows, StoredTrunkRows
from tlcli.recipes.trunk_store import Room, open_store


def kept_rows(
    tier: Literal["ram", "disk"],
    *,
    source: ViewPass,
    key: Mapping[str, Any],
    room: Room,
    dtype: torch.dtype,
    row_bytes: int,
    expected: int,
    limit: int,
    talk: Talk,
) -> KeptRows | StoredTrunkRows:
    """Return rows that are kept in memory or in a store.

    Args:
        tier: Where.
        source: Computes them.
        key: Of the store.
        room: That they need; its option is named in messages.
        dtype: In which they are kept.
        row_bytes: Of one row.
        expected: Rows that will be asked for.
        limit: Bytes that all stores, or those in memory, may take.
        talk: Is told of what is computed and of stores that were deleted.

    Raises:
        ConfigError: If there is no room in the store.
        MachineError: If there is none in memory, or the folder cannot be written to.
    """
    if tier == "ram":
        in_memory = KeptRows(
            source=source,
            dtype=dtype,
            row_bytes=row_bytes,
            most_bytes=limit,
            option=room.option,
            remedy=room.remedy,
            talk=talk,
        )
        in_memory.check_room(expected * row_bytes)
        return in_memory
    store, end_use = open_store(key, room=room, limit=limit, talk=talk)
    return StoredTrunkRows(
        source=source,
        store=store,
        end_use=end_use,
        dtype=dtype,
        row_bytes=row_bytes,
        talk=talk,
    )
