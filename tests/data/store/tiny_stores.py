"""Small tensor stores whose rows follow from their ids."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tlcli.data.store.row_ids import RowIds
from tlcli.data.store.tensor_store import ShardPlan, TensorStore

KEY: dict[str, Any] = {"model": "timm/resnet18", "dtype": "float16", "crop": {"size": [8, 8]}}
OTHER_KEY: dict[str, Any] = {**KEY, "model": "timm/resnet34", "crop": {"size": [8, 9], "pct": 1}}


def ids_of(numbers: Iterable[int]) -> RowIds:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in numbers]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def tensors_of(ids: RowIds) -> dict[str, Tensor]:
    """One vector and one map per row, of exact numbers."""
    bytes_ = torch.from_numpy(np.array(ids))
    return {
        "embedding": (bytes_[:, :3].float() / 4).to(torch.float16),
        "map": bytes_[:, 3:7].reshape(-1, 2, 2).to(torch.bfloat16),
    }


def vectors_of(ids: RowIds) -> Tensor:
    """The rows as `StoredRows.blocks` yields them, shape (N, 7)."""
    return torch.cat([t.float().flatten(1) for t in tensors_of(ids).values()], dim=1)


def write_all(store: TensorStore, plans: Sequence[ShardPlan]) -> None:
    for plan in plans:
        store.write(plan, tensors_of(plan.ids))


def fill(path: Path, numbers: Sequence[int], *, rows_per_shard: int = 3) -> TensorStore:
    """A sealed store with items."""
    store = TensorStore.open_or_create(path, key=KEY)
    ids = ids_of(numbers)
    plans = store.adopt(store.plan(ids, rows_per_shard=rows_per_shard))
    write_all(store, [plan for plan in plans if not store.is_written(plan)])
    store.seal(plans)
    store.write_items(pd.DataFrame({"path": [f"{n}.jpg" for n in numbers]}), ids=ids)
    return store


def names_of(plans: Iterable[ShardPlan]) -> list[str]:
    return [plan.name for plan in plans]


def shard_file(store: TensorStore, name: str) -> Path:
    return store.path / "shards" / f"{name}.safetensors"


def listed_files(store: TensorStore) -> list[Path]:
    return sorted((store.path / "shards").glob("[0-9a-f]*.safetensors"))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file in a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
