"""The ordered parts of a network, read from its own module tree.

A stage is what `--unfreeze` names and what layer decay counts: `layer4` of a ResNet, `blocks.11`
of a ViT, `features.7` of a ConvNeXt. No table of families is kept. Starting at the root, lists of
layers are opened until numbered siblings (`layer1..4`, `blocks.0..11`) or single layers are
reached; what carries no weight matrix of its own (norms, position embeddings, activations) joins
the stage beside it. Several numbered series of one length (`patch_embeds.0..3`, `blocks.0..3`) run
in turn: what has the same number is one stage. Every parameter, buffer and layer belongs to exactly
one stage.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from tlcli.errors import ModelError

HEAD = "head"
_NUMBERED = re.compile(r"^(.*?)(\d+)[a-z]?$")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LEAST_TURNS = 3
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
    turn: str | None = None
    """Parts of one turn, of series that run in turn, are one stage."""


_Turn = list[tuple[str, nn.Module]]


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
    turns = _turns(children)
    in_turn = {path.partition(".")[0] for turn in turns for path, _ in turn}
    series = _numbered_series([name for name, child in children.items() if _count(child)])
    for name, child in children.items():
        path = f"{prefix}{name}"
        holds_head = any(head.startswith(f"{path}.") for head in head_names)
        if name in in_turn:
            yield from _parts_of(turns, prefix=prefix)
            turns = []  # all stand where the first of them is
        elif holds_head or _is_wrapper(child, in_series=name in series, body=body):
            yield from _open(child, prefix=f"{path}.", head_names=head_names, body=body)
        else:
            yield _Part(path, _count(child), is_weighty=_has_matrix(child))


def _parts_of(turns: Sequence[_Turn], *, prefix: str) -> Iterator[_Part]:
    for number, turn in enumerate(turns):
        for path, module in turn:
            name = f"{prefix}{path}"
            yield _Part(name, _count(module), _has_matrix(module), turn=f"{prefix}{number}")


def _turns(children: Mapping[str, nn.Module]) -> list[_Turn]:
    """Return what runs in turn: of each number the modules of all series, with dotted names.

    Such series stand one behind the other in the module tree, have three modules or more and the
    same numbers; two of them at least have a matrix in every module.
    """
    series: dict[str, dict[str, tuple[str, nn.Module]]] = {}
    numbered = _numbered_series(list(children))
    for name, child in children.items():
        if name in numbered and (match := _NUMBERED.match(name)):
            series.setdefault(match.group(1), {})[match.group(2)] = (name, child)
        elif isinstance(child, nn.ModuleList):
            series[name] = {key: (f"{name}.{key}", part) for key, part in child.named_children()}
    long = [one for one in series.values() if len(one) >= _LEAST_TURNS]
    weighty = [one for one in long if all(_has_matrix(part) for _, part in one.values())]
    alike = [one for one in long if weighty and one.keys() == weighty[0].keys()]
    is_pair = sum(one in weighty for one in alike) > 1
    if not is_pair or not _stand_apart(alike, order=list(children)):
        return []
    return [[one[number] for one in alike] for number in alike[0]]


def _stand_apart(
    series: Sequence[Mapping[str, tuple[str, nn.Module]]], *, order: list[str]
) -> bool:
    """Say whether each series ends before the next begins, so that their order tells nothing."""
    places = [[order.index(n.partition(".")[0]) for n, _ in one.values()] for one in series]
    return all(max(one) < min(following) for one, following in pairwise(places))


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
        if groups and part.turn is not None and part.turn == groups[-1][-1].turn:
            groups[-1].append(part)
        elif part.is_weighty:
            groups.append([*leading, part])
            leading = []
        elif groups:
            groups[-1].append(part)
        else:
            leading.append(part)
    head_members = (*(part.name for part in before[closing:]), *head)
    return (*map(_stage, groups), Stage(name=HEAD, members=head_members))


def _stage(group: Sequence[_Part]) -> Stage:
    """Name a group of parts after the largest part with a weight matrix."""
    name = max((part for part in group if part.is_weighty), key=lambda part: part.parameters).name
    return Stage(
        name=name,
        members=tuple(part.name for part in group),
        companions=tuple(p.name for p in group if p.parameters and p.name != name),
    )
