"""The stages of a detector: those of its body, its neck where that is pretrained, and the head."""

from collections.abc import Iterator, Sequence

from torch import nn

from tlcli.backbones.stages import HEAD, Stage

BACKBONE = "backbone"
"""Where torchvision's detectors keep body and neck."""


def complete_stages(
    network: nn.Module, body: Sequence[Stage], *, neck: str, is_neck_pretrained: bool
) -> tuple[Stage, ...]:
    """Add the stages behind the body, so that every tensor and layer lies in exactly one.

    Args:
        network: A detector.
        body: Stages of its body, from the input on.
        neck: What to call the rest of the backbone, which works on the maps of the body.
        is_neck_pretrained: It is a stage of its own; else it is new, and part of the head.

    Returns:
        All stages; the last one is called `head`.
    """
    parameters = [name for name, _ in network.named_parameters()]
    rest = list(_rest(network, prefix="", taken=body))
    of_neck = [m for m in rest if m.startswith(f"{BACKBONE}.") and holds_any(m, parameters)]
    if not is_neck_pretrained:
        return (*body, Stage(name=HEAD, members=tuple(rest), companions=(neck,)))
    of_head = tuple(member for member in rest if member not in of_neck)
    return (*body, Stage(name=neck, members=tuple(of_neck)), Stage(name=HEAD, members=of_head))


def holds_any(name: str, tensor_names: Sequence[str]) -> bool:
    """Say whether any of the tensors is `name` itself or lies in the module of that name."""
    return any(tensor == name or tensor.startswith(f"{name}.") for tensor in tensor_names)


def _rest(network: nn.Module, *, prefix: str, taken: Sequence[Stage]) -> Iterator[str]:
    """Yield the outermost modules and bare tensors that no taken stage owns."""
    bare = (*network.named_parameters(recurse=False), *network.named_buffers(recurse=False))
    for name, _ in bare:
        if not any(stage.owns(f"{prefix}{name}") for stage in taken):
            yield f"{prefix}{name}"
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        if any(stage.owns(path) for stage in taken):
            continue
        if any(m.startswith(f"{path}.") for stage in taken for m in stage.members):
            yield from _rest(child, prefix=f"{path}.", taken=taken)
        else:
            yield path
