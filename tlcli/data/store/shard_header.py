"""What a shard of a tensor store says of itself, read without torch: that takes seconds to load."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tlcli.data.store.row_ids import ID_BYTES
from tlcli.results.atomic import machine_errors

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
IDS = "ids"
"""Name of the tensor that holds the row ids."""
KEY = "key"
"""The one metadata entry; safetensors writes several in no fixed order."""
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "U8": "uint8"}
"""What safetensors calls the types that can be stored, and what torch calls them."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Type and shape of one row of a tensor."""

    dtype: str
    """As torch calls it: float16, bfloat16, float32 or uint8."""
    shape: tuple[int, ...]
    """Of one row: without the leading dimension of the rows."""

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The type itself."""
        import torch  # a listing of the cache does without

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """What a shard says of itself."""

    key_digest: str
    rows: int
    tensors: Mapping[str, TensorSpec]


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """Where a listed shard lies and what must be in it."""

    path: Path
    header: ShardHeader

    @property
    def is_whole(self) -> bool:
        """Whether the file is there, whole and the expected one.

        Raises:
            MachineError: the file is there but cannot be read.
        """
        return find_header(self.path) == self.header


def find_header(path: Path) -> ShardHeader | None:
    """Return the header of a shard, or None if the file is missing, cut off or no shard.

    Raises:
        MachineError: the file is there but cannot be read.
    """
    with machine_errors(path, action="read"):
        try:
            with safe_open(path, framework="np") as file:
                return _header(file)
        except (SafetensorError, FileNotFoundError, LookupError):
            return None


def _header(file: Any) -> ShardHeader:
    specs: dict[str, TensorSpec] = {}
    for name in sorted(file.keys()):
        part = file.get_slice(name)
        specs[name] = TensorSpec(dtype=DTYPES[part.get_dtype()], shape=tuple(part.get_shape()[1:]))
    if specs.pop(IDS) != TensorSpec(dtype="uint8", shape=(ID_BYTES,)):
        raise LookupError(IDS)
    rows = file.get_slice(IDS).get_shape()[0]
    return ShardHeader(key_digest=(file.metadata() or {})[KEY], rows=rows, tensors=specs)
