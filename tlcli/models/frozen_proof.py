"""The proof that what was frozen did not move: digests before and after, tensor by tensor."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.models.staged import StagedModel


@dataclass(frozen=True, kw_only=True)
class FrozenReport:
    """What `run.json` says about the frozen part of a phase or of a whole run."""

    tensors: int
    """Parameters that had to stay."""
    buffers: int
    """Buffers that had to stay, BatchNorm statistics among them."""
    changed: tuple[str, ...] = ()
    """Names of those that did not."""

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "tensors": self.tensors,
            "buffers": self.buffers,
            "changed": len(self.changed),
            "changed_names": list(self.changed),
        }


def digest_of(tensor: Tensor) -> str:
    """Return a digest of dtype, shape and every bit of a tensor."""
    array = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{array.dtype}{tuple(array.shape)}".encode(), digest_size=16)
    digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digests_of(named: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Return a digest for every named tensor."""
    return {name: digest_of(tensor) for name, tensor in named}


def check_frozen(
    before: Mapping[str, str], *, after: Mapping[str, str], parameters: Iterable[str]
) -> FrozenReport:
    """Compare digests of the frozen tensors.

    Args:
        before: Digests when the tensors were frozen.
        after: Digests now; may hold more tensors than `before`.
        parameters: Names that are parameters; the others count as buffers.
    """
    names = set(parameters)
    return FrozenReport(
        tensors=sum(name in names for name in before),
        buffers=sum(name not in names for name in before),
        changed=tuple(name for name, digest in before.items() if after.get(name) != digest),
    )


def frozen_digests(model: StagedModel) -> dict[str, str]:
    """Return digests of all tensors of the model that are frozen now."""
    return digests_of(model.frozen_tensors())
