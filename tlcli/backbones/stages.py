"""The ordered parts of a network, read from its own module tree.

A stage is what `--unfreeze` names and what layer decay counts: `layer4` of a ResNet, `blocks.11`
of a ViT, `features.7` of a ConvNeXt. No table of families is kept. Starting at the root, lists of
layers are opened until numbered siblings (`layer1..4`, `blocks.0..11`) or single layers are
reached; what carries no weight matrix of its own (norms, position embeddings, activations) joins
the stage beside it. Every parameter, buffer and layer belongs to exactly one stage.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from tlcli.errors import ModelError

HEAD = "head"
_NUMBERED = re.compile(r"^(.*?)(\d+)[a-z]?$")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_DOMINANT_SHARE = 0.5
"""A module that holds more than this share of the body is a wrapper around it, and is opened."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ordered part of a network.

    `members` are dotted names of modules or of bare parameters, in the order of the network;
    `companions` those that hold weights beside the one that gives the stage its name.
    """

    name: str
    members: tuple[str, ...]
    companions: tuple[str, ...] = ()

    def owns(self, tensor_name: str) -> bool:
        """Say whether a parameter, buffer or module of that dotted name lies in this stage."""
        return any(tensor_name == m or tensor_name.startswith(f"{m}.") for m in self.members)

    @property
    def label(self) -> str:
        """The name and, behind it, what else it holds: `blocks.11 (+ norm)`."""
        return f"{self.name} (+ {', '.join(self.companions)})" if self.companions else self.name


@dataclass(frozen=True)
class _Part:
    """A module or bare parameter on the way to becoming a stage."""

    name: str
    parameters: int
    is_weighty: bool


def find_stages(network: nn.Module, *, head_names: Sequence[str]) -> tuple[Stage, ...]:
    """Split a network into stages from input to head.

    Args:
        network: The bare network of either source, its head in place.
        head_names: Dotted names of the layers that map features to classes.

    Returns:
        At least two stages; the last one is called `head`.

    Raises:
        ModelError: If a head name does not exist in the network or nothing lies before it.
    """
    modules = dict(network.named_modules())
    for name in head_names:
        if name not in modules:
            raise ModelError(f"The head layer '{name}' does not exist in this network.")
    body = _count(network) - sum(_count(modules[name]) for name in head_names)
    parts = list(_open(network, prefix="", head_names=head_names, body=body))
    first_head = min(i for i, part in enumerate(parts) if part.name in head_names)
    before = [part for part in parts[:first_head] if part.name not in head_names]
    # Heads come last in every network of both sources; what stands behind the first head (a second
    # head, a closing activation) belongs to it.
    behind = [part.name for part in parts[first_head:]]
    return _join(before, behind)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _open(
    module: nn.Module, *, prefix: str, head_names: Sequence[str], body: int
) -> Iterator[_Part]:
    """Yield the parts of `module` in order: its bare tensors, then its children, opened or not."""
    bare = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    for name, tensor in bare:
        yield _Part(f"{prefix}{name}", tensor.numel(), is_weighty=False)
    children = dict(module.named_children())
    series = _numbered_series([name for name, child in children.items() if _count(child)])
    for name, child in children.items():
        path = f"{prefix}{name}"
        holds_head = any(head.startswith(f"{path}.") for head in head_names)
        if holds_head or _is_wrapper(child, in_series=name in series, body=body):
            yield from _open(child, prefix=f"{path}.", head_names=head_names, body=body)
        else:
            yield _Part(path, _count(child), is_weighty=_has_matrix(child))


def _numbered_series(names: Sequence[str]) -> set[str]:
    """Names that differ from a sibling in their number only: layer1, layer2, or 0, 1, 2."""
    stems: dict[str, list[str]] = {}
    for name in names:
        if match := _NUMBERED.match(name):
            stems.setdefault(match.group(1), []).append(name)
    return {name for group in stems.values() if len(group) > 1 for name in group}


def _is_wrapper(module: nn.Module, *, in_series: bool, body: int) -> bool:
    """Say whether the stages lie inside `module` rather than `module` being one."""
    weighty = [child for child in module.children() if _has_matrix(child)]
    if in_series or not weighty:
        return False
    if isinstance(module, _CONTAINERS):
        return len(weighty) > 1 or _count(module) > _DOMINANT_SHARE * body
    return _count(module) > _DOMINANT_SHARE * body


def _has_matrix(module: nn.Module) -> bool:
    """Say whether a convolution, linear map or attention lies in `module`, not only norms."""
    return any(p.ndim >= 2 for p in module.parameters())


def _join(before: Sequence[_Part], head: Sequence[str]) -> tuple[Stage, ...]:
    """Make stages of the parts that carry weights; the others join the stage before them.

    Leading ones (class token, position embedding) join the first stage, and layers without any
    parameter right before the head (pooling, dropout) are the head's own.
    """
    if not any(part.is_weighty for part in before):
        raise ModelError("This network has no layers before its head that could be frozen.")
    closing = len(before)
    while not before[closing - 1].parameters:
        closing -= 1
    groups: list[list[_Part]] = []
    leading: list[_Part] = []
    for part in before[:closing]:
        if part.is_weighty:
            groups.append([*leading, part])
            leading = []
        elif groups:
            groups[-1].append(part)
        else:
            leading.append(part)
    head_members = (*(part.name for part in before[closing:]), *head)
    return (*map(_stage, groups), Stage(name=HEAD, members=head_members))


def _stage(group: Sequence[_Part]) -> Stage:
    """Name a group of parts after its only part with a weight matrix."""
    name = next(part.name for part in group if part.is_weighty)
    return Stage(
        name=name,
        members=tuple(part.name for part in group),
        companions=tuple(p.name for p in group if p.parameters and p.name != name),
    )
