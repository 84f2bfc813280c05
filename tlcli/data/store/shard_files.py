"""One shard of a tensor store: a safetensors file that is whole or is not there."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from tlcli.data.store.durable_files import write_durably
from tlcli.data.store.row_ids import RowIds
from tlcli.data.store.shard_header import DTYPES, IDS, KEY, ShardHeader, TensorSpec, find_header
from tlcli.errors import DataError
from tlcli.results.atomic import machine_errors

_TENSOR_NAME = re.compile(r"\w[\w.-]*")
"""Names of stages, and of files on any system."""
_NAME_LENGTH = 32


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Rows that are computed and written together."""

    name: str
    """Stem of the file; a hash of the store's key and of the ids, so two plans of one name are
    the same."""
    ids: RowIds = field(compare=False, repr=False)
    """Shape (n, 32)."""
    positions: npt.NDArray[np.int64] = field(compare=False, repr=False)
    """Shape (n,): where these ids first appeared in the list that was planned."""

    def __len__(self) -> int:
        return len(self.ids)


def shard_name(ids: RowIds, *, key_digest: str) -> str:
    """Return the name of the shard that holds these rows in this order."""
    digest = hashlib.sha256(bytes.fromhex(key_digest))
    digest.update(ids.tobytes())
    return digest.hexdigest()[:_NAME_LENGTH]


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Describe the rows of tensors of shape (n, ...), by name in alphabetical order."""
    return {
        name: TensorSpec(
            dtype=str(tensors[name].dtype).removeprefix("torch."),
            shape=tuple(tensors[name].shape[1:]),
        )
        for name in sorted(tensors)
    }


def write_shard(path: Path, *, ids: RowIds, tensors: Mapping[str, Tensor], key_digest: str) -> None:
    """Write a shard in one step and durably; the same rows give the same bytes.

    Args:
        path: The file.
        ids: Shape (n, 32).
        tensors: By name, each (n, ...) and of a type that can be stored.
        key_digest: Of the store.

    Raises:
        ValueError: a name, a type or a number of rows that does not fit.
        MachineError: the disk is full or the folder cannot be written to.
    """
    for name, tensor in tensors.items():
        if name == IDS or not _TENSOR_NAME.fullmatch(name):
            raise ValueError(f"A tensor cannot be called '{name}'.")
        if len(tensor) != len(ids):
            raise ValueError(f"'{name}' has {len(tensor)} rows for {len(ids)} ids.")
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES.values():
            raise ValueError(f"'{name}' is {tensor.dtype}; stored are {[*DTYPES.values()]}.")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    stored[IDS] = torch.from_numpy(np.array(ids))
    data = safetensors.torch.save(stored, metadata={KEY: key_digest})
    write_durably(path, lambda temporary: temporary.write_bytes(data))


def read_shard(path: Path, *, expected: ShardHeader, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Map tensors of a shard into memory: bytes are read from the disk when they are used.

    Args:
        path: The file.
        expected: What the store knows about the shard.
        names: Which tensors, `IDS` among them if wanted.

    Returns:
        Tensors (n, ...) in their stored types; do not write to them.

    Raises:
        DataError: the shard is missing or damaged, or not the expected one.
    """
    if find_header(path) != expected:
        raise DataError(
            f"The shard '{path}' is missing or damaged. Run the command that computed it again:"
            f" only its {expected.rows} rows are computed anew."
        )
    with machine_errors(path, action="read"), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}
