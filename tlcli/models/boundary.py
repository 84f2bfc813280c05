"""A network cut in two: the trunk, which no training changes, and the tail behind it.

The trunk is everything that depends on no trainable parameter and on no random number. It is found
from the network's own graph, not from names of layers: torch.fx follows the forward pass, and
modules whose tensors are all frozen, or all trained, are taken as a whole. So only the code that
joins such modules must be traceable, and what is inside of them may do anything.

Both halves call the network's own layers: nothing is copied, and what `StagedModel` does to a layer
(mode, gradients, weights) is done to its half too.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._features_fx import get_notrace_functions
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from tlcli.models.staged import StagedModel, has_statistics
from tlcli.models.stochastic_layers import is_stochastic

TRIED_IMAGES = 3
"""Images that show what a cut value is: one more than the two it is compared with."""
_FAILURES = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
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
    tail: fx.GraphModule
    """These tensors -> what the network puts out."""
    names: tuple[str, ...]
    """Of the values that cross the boundary, after the layers that they come from."""
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
        model.train()
        graph = _Tracer(model).trace(model.network)
        sides = _sides(graph, model.network)
        split = _halves(model.network, graph, sides, example=example)
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
        example: Normalised images (B, C, H, W).
    """
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as trunk:
        values = split.trunk(example)
    with FlopCounterMode(display=False) as tail:
        split.tail(*values)
    model.train(was_training)
    step = trunk.get_total_flops() + 3 * tail.get_total_flops()
    return trunk.get_total_flops() / step if step else 1.0


class _Tracer(fx.Tracer):
    """Follows the code that joins modules whose tensors are all frozen, or all trained."""

    def __init__(self, model: StagedModel) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._model = model

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take a module as a whole unless it holds stages of both kinds."""
        return not self._model.is_mixed(module_qualified_name)


@dataclass(frozen=True)
class _Sides:
    """On which side of the boundary the nodes of a graph lie."""

    images: fx.Node
    of_images: frozenset[fx.Node]
    """What depends on the images."""
    tail: frozenset[fx.Node]
    """What depends on a trained parameter or on chance."""
    cut: tuple[fx.Node, ...]
    """What depends on the images, lies in the trunk, and is used in the tail."""


def _sides(graph: fx.Graph, network: nn.Module) -> _Sides:
    images = next(node for node in graph.nodes if node.op == "placeholder")
    of_images, tail = {images}, set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if any(one in of_images for one in inputs):
            of_images.add(node)
        if any(one in tail for one in inputs) or _is_trained(node, network) or node.op == "output":
            tail.add(node)
    cut = [
        node
        for node in graph.nodes
        if node in of_images - tail and any(user in tail for user in node.users)
    ]
    if cut == [images]:
        raise NoBoundaryError("nothing is frozen before the first layer that is trained")
    return _Sides(images, frozenset(of_images), frozenset(tail), tuple(cut))


def _is_trained(node: fx.Node, network: nn.Module) -> bool:
    """Say whether a node is itself trained, or draws random numbers in the mode of training."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        is_moving = any(layer.training and has_statistics(layer) for layer in module.modules())
        is_trained = any(parameter.requires_grad for parameter in module.parameters())
        return is_trained or is_moving or is_stochastic(module)
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(network)
        return isinstance(value, Tensor) and value.requires_grad
    if node.op == "call_function" and "dropout" in getattr(node.target, "__name__", ""):
        return bool(node.kwargs.get("training", True))
    return False


def _halves(network: nn.Module, graph: fx.Graph, sides: _Sides, *, example: Tensor) -> SplitNetwork:
    trunk = _trunk(network, graph, sides)
    kinds = _kinds_of_cut(trunk, sides.cut, example=example)
    rows = {node: kind for node in sides.cut if isinstance(kind := kinds[node], _Rows)}
    if not rows:
        raise NoBoundaryError("no value with a row for each image crosses the boundary")
    if len(rows) < len(sides.cut):
        trunk = _trunk(network, graph, sides, wanted=tuple(rows))
    return SplitNetwork(
        trunk=trunk,
        tail=_tail(network, graph, sides, kinds=kinds, rows=tuple(rows)),
        names=tuple(node.name for node in rows),
        shapes=tuple(row.shape for row in rows.values()),
        formats=tuple(row.format for row in rows.values()),
    )


def _trunk(
    network: nn.Module,
    graph: fx.Graph,
    sides: _Sides,
    *,
    wanted: Sequence[fx.Node] | None = None,
) -> fx.GraphModule:
    """Return the graph from the images to the values that are cut."""
    half, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node not in sides.tail:
            copies[node] = half.node_copy(node, lambda one: copies[one])
    half.output(tuple(copies[node] for node in (sides.cut if wanted is None else wanted)))
    return _module(network, half)


@dataclass(frozen=True)
class _Rows:
    """A tensor with one row for each image, of this shape and memory format."""

    shape: tuple[int, ...]
    format: torch.memory_format


@dataclass(frozen=True)
class _Same:
    """The same value for all images and any number of them."""

    value: Any


class _Count:
    """The number of images."""


_Kind = _Rows | _Same | _Count


@torch.no_grad()
def _kinds_of_cut(
    trunk: fx.GraphModule, cut: Sequence[fx.Node], *, example: Tensor
) -> dict[fx.Node, _Kind]:
    """Tell what crosses the boundary by what changes with the number of images."""
    fewer, all_of_them = trunk(example[:-1]), trunk(example)
    return {
        node: _kind(node, fewer[place], all_of_them[place], counts=(len(example) - 1, len(example)))
        for place, node in enumerate(cut)
    }


def _kind(node: fx.Node, fewer: Any, more: Any, *, counts: tuple[int, int]) -> _Kind:
    if isinstance(fewer, Tensor):
        if fewer.ndim > 0 and (fewer.shape[0], more.shape[0]) == counts:
            return _Rows(tuple(more.shape[1:]), _format(more))
    elif isinstance(fewer, int | float | str | torch.Size | tuple | type(None)):
        if fewer == more:
            return _Same(fewer)
        if (fewer, more) == counts:
            return _Count()
    raise NoBoundaryError(f"what crosses the boundary at '{node.name}' has no row for each image")


def _format(tensor: Tensor) -> torch.memory_format:
    if tensor.is_contiguous() or tensor.ndim != 4:
        return torch.contiguous_format
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _tail(
    network: nn.Module,
    graph: fx.Graph,
    sides: _Sides,
    *,
    kinds: dict[fx.Node, _Kind],
    rows: Sequence[fx.Node],
) -> fx.GraphModule:
    """Return the graph from the cut values to the output; what needs no image is done there too."""
    half, copies = fx.Graph(), dict[fx.Node, Any]()
    for node in rows:
        copies[node] = half.placeholder(node.name)
    for node, kind in kinds.items():
        if isinstance(kind, _Count):
            copies[node] = half.call_method("size", (copies[rows[0]], 0))
        elif isinstance(kind, _Same):
            copies[node] = kind.value
    for node in graph.nodes:
        if node in copies or (node in sides.of_images and node not in sides.tail):
            continue
        if node.op == "placeholder":  # an option of the forward pass that is left at its default
            copies[node] = node.args[0] if node.args else None
        else:
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
    with torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
        torch.manual_seed(seed)
        whole = network(example)
        torch.manual_seed(seed)
        values: tuple[Tensor, ...] = split.trunk(example)
        halves = split.tail(*values)
    if not torch.equal(whole, halves):
        raise NoBoundaryError("its two halves do not give what the whole gives")
    return values
