"""A network cut in two: the trunk, which no training changes, and the tail behind it.

The trunk is everything that depends on no trainable parameter and on no random number. It is found
from the network's own graph (`boundary_graph`), not from names of layers.

Both halves call the network's own layers: nothing is copied, and what `StagedModel` does to a layer
(mode, gradients, weights) is done to its half too.
"""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from tlcli.models.boundary_graph import Sides, sides_of, trace, unpack
from tlcli.models.staged import StagedModel

TRIED_IMAGES = 3
"""Images that show what a cut value is: one more than the two it is compared with."""
_ROW_TOLERANCE = 1e-2
"""Of the largest value: what one more image in a batch may change in the rows of the others."""
_FAILURES = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What tracing, or running a half of a network that cannot be cut, raises."""


class NoBoundaryError(Exception):
    """A network cannot be cut into trunk and tail; the text says why."""


@dataclass(frozen=True, kw_only=True)
class SplitNetwork:
    """The two halves of a network; `tail(*trunk(images))` is what the network gives."""

    trunk: fx.GraphModule
    """Normalised images (B, 3, H, W) -> one tensor (B, ...) for each of `names`."""
    tail: nn.Module
    """These tensors -> what the network puts out, in the mode that it is in. Layers that work in
    place may change the tensors."""
    names: tuple[str, ...]
    """Of the values that cross the boundary, no two alike."""
    layers: tuple[str, ...]
    """The last frozen layers that each of these values comes from, by their names in the network;
    with a plus between them where code joins several."""
    shapes: tuple[tuple[int, ...], ...]
    """Of these values, for one image."""
    formats: tuple[torch.memory_format, ...]
    """In which the trunk gives them."""

    @property
    def values_per_image(self) -> int:
        """Numbers that cross the boundary for one image."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)


def split_network(model: StagedModel, *, example: Tensor) -> SplitNetwork:
    """Cut a network at the boundary of what is trained now.

    The halves are tried on `example`, in the mode of training and in that of evaluation: together
    they give what the network gives, to the bit. The model is left as it was.

    Args:
        model: With the stages open that are trained.
        example: Normalised images (`TRIED_IMAGES`, C, H, W) where the model is, no two alike.

    Raises:
        NoBoundaryError: If nothing is frozen before the first trained layer, the code that joins
            the stages cannot be traced, or something else than rows of images crosses the boundary.
    """
    was_training = model.training
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
            split = _split(model, example=example)
            values = []
            for mode in (True, False):
                model.train(mode)
                values.append(_compare(model.network, split, example=example, seed=int(mode)))
        if not all(torch.equal(a, b) for a, b in zip(*values, strict=True)):
            raise NoBoundaryError("its frozen part gives other values in training")
        return split
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise NoBoundaryError(f"its forward pass cannot be traced ({reason})") from error
    finally:
        model.train(was_training)
        for name, buffer in model.named_buffers():  # statistics of trained norms have moved
            buffer.copy_(buffers[name])


@torch.no_grad()
def trunk_share(model: StagedModel, split: SplitNetwork, *, example: Tensor) -> float:
    """Return T / (T + 3t): forward through the trunk, forward and backward through the tail.

    Args:
        model: That `split` is of; run in the mode of evaluation, and left as it was.
        split: Its halves.
        example: Normalised images (B, C, H, W), of which one is enough.
    """
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as trunk:
        values = split.trunk(example[:1])
    with FlopCounterMode(display=False) as tail:
        split.tail(*values)
    model.train(was_training)
    step = trunk.get_total_flops() + 3 * tail.get_total_flops()
    return trunk.get_total_flops() / step if step else 1.0


def _split(model: StagedModel, *, example: Tensor) -> SplitNetwork:
    """Cut the graph; that of each mode where the network's own code does other things in them."""
    graphs = []
    for mode in (True, False):
        model.train(mode)
        graphs.append(trace(model, example=example))
    model.train()  # which says what moves and what is random
    is_one = len({graph.python_code("self").src for graph in graphs}) == 1
    halves = [_halves(model.network, graph, example=example) for graph in graphs[: 2 - is_one]]
    training, evaluation = halves[0], halves[-1]
    if is_one:
        return training
    if (training.names, training.shapes) != (evaluation.names, evaluation.shapes):
        raise NoBoundaryError("other values cross the boundary in training than in evaluation")
    tail = _TailOfBothModes(model.network, training=training.tail, evaluation=evaluation.tail)
    return replace(training, tail=tail)


class _TailOfBothModes(nn.Module):
    """Runs the half that belongs to the mode of its network."""

    def __init__(self, network: nn.Module, *, training: nn.Module, evaluation: nn.Module) -> None:
        super().__init__()
        self.in_training = training
        self.in_evaluation = evaluation
        self._network = (network,)  # no part of the tail: only its mode is asked for

    def forward(self, *values: Tensor) -> Any:
        """Return what the network puts out."""
        is_training = self._network[0].training
        return (self.in_training if is_training else self.in_evaluation).forward(*values)


def _halves(network: nn.Module, graph: fx.Graph, *, example: Tensor) -> SplitNetwork:
    sides = sides_of(graph, network)
    if sides.cut == (sides.images,):
        raise NoBoundaryError("nothing is frozen before the first layer that is trained")
    while packed := _packed(_trunk(network, graph, sides), sides.cut, images=example[:1]):
        for node, length in packed.items():
            unpack(node, length=length, users=sides.tail)
        sides = sides_of(graph, network)
    trunk = _trunk(network, graph, sides)
    kinds = _kinds_of_cut(trunk, sides.cut, example=example)
    rows = {node: kind for node in sides.cut if isinstance(kind := kinds[node], _Rows)}
    if not rows:
        raise NoBoundaryError("no value with a row for each image crosses the boundary")
    if len(rows) < len(sides.cut) or any(row.per_image > 1 for row in rows.values()):
        trunk = _trunk(network, graph, sides, rows=rows)
    return SplitNetwork(
        trunk=trunk,
        tail=_tail(network, graph, sides, kinds=kinds),
        names=tuple(node.name for node in rows),
        layers=tuple(" + ".join(_last_layers(node)) or node.name for node in rows),
        shapes=tuple(row.shape for row in rows.values()),
        formats=tuple(row.format for row in rows.values()),
    )


def _last_layers(node: fx.Node) -> list[str]:
    """Return the names of the layers that a value comes from, perhaps through joining code."""
    names: dict[str, None] = {}
    seen, left = set[fx.Node](), [node]
    while left:
        one = left.pop()
        if one.op == "call_module":
            names[str(one.target)] = None
        elif one not in seen:
            left.extend(one.all_input_nodes)
        seen.add(one)
    return sorted(names)


@dataclass(frozen=True)
class _Rows:
    """A tensor with so many rows for each image, one image behind the other."""

    per_image: int
    shape: tuple[int, ...]
    """Of what belongs to one image."""
    format: torch.memory_format


@dataclass(frozen=True)
class _Same:
    """The same value for all images and any number of them."""

    value: Any


@dataclass(frozen=True)
class _Count:
    """The number of images, or a multiple."""

    times: int


_Kind = _Rows | _Same | _Count


def _trunk(
    network: nn.Module,
    graph: fx.Graph,
    sides: Sides,
    *,
    rows: dict[fx.Node, _Rows] | None = None,
) -> fx.GraphModule:
    """Return the graph from the images to the values that are cut, or to a row for each image."""
    half, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node not in sides.tail:
            copies[node] = half.node_copy(node, lambda one: copies[one])
    if rows is None:
        half.output(tuple(copies[node] for node in sides.cut))
        return _module(network, half)
    for node, row in rows.items():
        if row.per_image > 1:
            copies[node] = half.call_method("unflatten", (copies[node], 0, (-1, row.per_image)))
    half.output(tuple(copies[node] for node in rows))
    return _module(network, half)


@torch.no_grad()
def _packed(trunk: fx.GraphModule, cut: Sequence[fx.Node], *, images: Tensor) -> dict[fx.Node, int]:
    """Return which cut values are lists or tuples, sizes too, and their lengths."""
    values = zip(cut, trunk.forward(images), strict=True)
    return {node: len(one) for node, one in values if isinstance(one, list | tuple) and one}


@torch.no_grad()
def _kinds_of_cut(
    trunk: fx.GraphModule, cut: Sequence[fx.Node], *, example: Tensor
) -> dict[fx.Node, _Kind]:
    """Tell what crosses the boundary by what changes with the number of images."""
    fewer, all_of_them = trunk.forward(example[:-1]), trunk.forward(example)
    return {
        node: _kind(node, fewer[place], all_of_them[place], example=example)
        for place, node in enumerate(cut)
    }


def _kind(node: fx.Node, fewer: Any, more: Any, *, example: Tensor) -> _Kind:
    """Tell what a value is that was computed for all images, and for all but the last."""
    count = len(example)
    if isinstance(more, Tensor):
        if more.dtype != example.dtype:
            raise NoBoundaryError(f"what crosses the boundary at '{node.name}' is {more.dtype}")
        times = more.shape[0] // count if more.ndim else 0
        if times and (len(fewer), len(more)) == (times * (count - 1), times * count):
            _check_rows(node, fewer, more[: len(fewer)])
            shape = more.shape[1:] if times == 1 else (times, *more.shape[1:])
            layout = _format(more) if times == 1 else torch.contiguous_format
            return _Rows(times, tuple(shape), layout)
    elif isinstance(more, int | float | str | list | tuple | type(None)):
        if fewer == more:
            return _Same(more)
        if isinstance(more, int) and fewer * count == more * (count - 1):
            return _Count(more // count)
    raise NoBoundaryError(f"what crosses the boundary at '{node.name}' has no row for each image")


def _check_rows(node: fx.Node, alone: Tensor, among_others: Tensor) -> None:
    """Make sure that the first rows are those of the first images, whatever comes behind."""
    largest = among_others.abs().max()
    if ((alone - among_others).abs() > _ROW_TOLERANCE * largest).any():
        raise NoBoundaryError(
            f"what crosses the boundary at '{node.name}' is not the same for the same image"
        )


def _format(tensor: Tensor) -> torch.memory_format:
    if tensor.is_contiguous() or tensor.ndim != 4:
        return torch.contiguous_format
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _tail(
    network: nn.Module, graph: fx.Graph, sides: Sides, *, kinds: dict[fx.Node, _Kind]
) -> fx.GraphModule:
    """Return the graph from the cut values to the output; what needs no image is done there too."""
    half, copies = fx.Graph(), dict[fx.Node, Any]()
    rows = {node: kind for node, kind in kinds.items() if isinstance(kind, _Rows)}
    given = {node: half.placeholder(node.name) for node in rows}
    for node, kind in kinds.items():
        if isinstance(kind, _Same):
            copies[node] = kind.value
        elif isinstance(kind, _Rows) and kind.per_image == 1:
            copies[node] = given[node]
        elif isinstance(kind, _Rows):
            copies[node] = half.call_method("flatten", (given[node], 0, 1))
        else:
            count = half.call_method("size", (next(iter(given.values())), 0))
            copies[node] = half.call_function(operator.mul, (count, kind.times))
    for node in graph.nodes:
        if node in copies or (node in sides.of_images and node not in sides.tail):
            continue
        copies[node] = _copied(node, half, copies)
    return _module(network, half)


def _copied(node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, Any]) -> fx.Node:
    """Copy a node whose inputs may have become plain values."""
    args = fx.map_arg(node.args, lambda one: copies[one])
    kwargs = fx.map_arg(node.kwargs, lambda one: copies[one])
    if node.op == "output":
        result: fx.Node = graph.output(args[0])
        return result
    return graph.create_node(node.op, node.target, args, kwargs, node.name)


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    graph.lint()
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


@torch.no_grad()
def _compare(
    network: nn.Module, split: SplitNetwork, *, example: Tensor, seed: int
) -> tuple[Tensor, ...]:
    """Return what the trunk gives, if both halves give what the whole gives, chance included."""
    with _received(network) as by_whole:
        torch.manual_seed(seed)
        by_whole.append(network(example))
    with _received(network) as by_halves:
        torch.manual_seed(seed)
        values: tuple[Tensor, ...] = split.trunk.forward(example)
        by_halves.append(split.tail.forward(*(value.clone() for value in values)))
    if len(by_whole) != len(by_halves) or not all(map(torch.equal, by_whole, by_halves)):
        raise NoBoundaryError("its two halves do not give what the whole gives")
    return values


@contextmanager
def _received(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what trained layers are given; a new head of zeros makes the same of everything."""
    received: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        received.extend(one.clone() for one in inputs if isinstance(one, Tensor))

    hooks = [
        module.register_forward_pre_hook(keep)
        for module in network.modules()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]
    try:
        yield received
    finally:
        for hook in hooks:
            hook.remove()
