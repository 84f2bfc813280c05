"""The graph of a network, and which of it comes before everything that is trained.

torch.fx follows the forward pass; modules whose tensors are all frozen, or all trained, are taken
as a whole. So only the code that joins such modules must be traceable.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._features_fx import get_notrace_functions
from torch import Tensor, fx, nn

from tlcli.models.staged import StagedModel, has_statistics
from tlcli.models.stochastic_layers import is_stochastic

_MOST_QUESTIONS = 100
"""That the code of a network may ask, which is traced anew after each."""


def trace(model: StagedModel, *, example: Tensor) -> fx.Graph:
    """Follow the code that joins frozen and trained modules, in the mode that the model is in.

    Where the code asks for a size, a number or the length of a list, `example` answers; where it
    asks for the values of tensors it cannot be followed.

    Raises:
        RuntimeError, TypeError, ...: What the code, or torch.fx, raises where this does not work.
    """
    answers: list[int] = []
    while len(answers) < _MOST_QUESTIONS:
        tracer = _Tracer(model, answers=answers)
        try:
            return tracer.trace(model.network)
        except _Question as question:
            answers.append(_answer(model.network, tracer.graph, question.node, example=example))
    raise RuntimeError(f"its code asks more than {_MOST_QUESTIONS} questions")


class _Question(Exception):  # noqa: N818 (it ends a trace, but is no error)
    """The code asks what a node is, and there is no answer yet."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node.name)
        self.node = node


class _Tracer(fx.Tracer):
    """Follows the code that joins modules whose tensors are all frozen, or all trained."""

    def __init__(self, model: StagedModel, *, answers: Sequence[int]) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._model = model
        self._answers = iter(answers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take a module as a whole unless it holds stages of both kinds."""
        return not self._model.is_mixed(module_qualified_name)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Give the network images alone; options of its forward pass keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def proxy(self, node: fx.Node) -> "_Proxy":
        """Stand in for the value of a node."""
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer an `if`."""
        return bool(self.answer(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Hand out the items of a list or tuple."""
        for place in range(self.answer(obj)):
            yield self.create_proxy("call_function", operator.getitem, (obj, place), {})

    def answer(self, obj: fx.Proxy) -> int:
        """Say what is known of a value; what is not becomes a question."""
        answer = next(self._answers, None)
        if answer is None:
            raise _Question(obj.node)
        return answer


class _Proxy(fx.Proxy):
    """Has a length, which Python asks for where a list is spread out."""

    tracer: _Tracer

    def __len__(self) -> int:
        return self.tracer.answer(self)


@torch.no_grad()
def _answer(network: nn.Module, graph: fx.Graph, node: fx.Node, *, example: Tensor) -> int:
    """Return the length of a list or tuple, or a number, that does not depend on the images."""
    begun = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    begun.graph_copy(graph, copies)
    begun.output(copies[node])
    module = fx.GraphModule(network, begun)
    found = [module.forward(example[:-1]), module.forward(example)]
    if all(isinstance(value, list | tuple) for value in found):
        found = [len(value) for value in found]
    if not all(isinstance(value, int | float) for value in found) or found[0] != found[1]:
        raise ValueError(f"its code asks for the value of '{node.name}'")
    return bool(found[0]) if isinstance(found[0], float) else int(found[0])


@dataclass(frozen=True)
class Sides:
    """On which side of the boundary the nodes of a graph lie."""

    images: fx.Node
    of_images: frozenset[fx.Node]
    """What depends on the images."""
    tail: frozenset[fx.Node]
    """What depends on a trained parameter or on chance."""
    cut: tuple[fx.Node, ...]
    """What depends on the images, lies in the trunk, and is used in the tail."""


def sides_of(graph: fx.Graph, network: nn.Module) -> Sides:
    """Tell the sides apart.

    Args:
        graph: From `trace`.
        network: In the mode of training, which says what moves and what is random.
    """
    images = next(node for node in graph.nodes if node.op == "placeholder")
    of_images, tail = {images}, set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if any(one in of_images for one in inputs):
            of_images.add(node)
        if any(one in tail for one in inputs) or _is_trained(node, network) or node.op == "output":
            tail.add(node)
    cut = tuple(
        node
        for node in graph.nodes
        if node in of_images - tail and any(user in tail for user in node.users)
    )
    return Sides(images, frozenset(of_images), frozenset(tail), cut)


def unpack(node: fx.Node, *, length: int, users: frozenset[fx.Node]) -> None:
    """Let these users take the items of a node's list or tuple one by one, in its graph.

    Args:
        node: That gives it.
        length: Its number of items.
        users: A list of the items takes the place of the node in their arguments.
    """
    with node.graph.inserting_after(node):
        items = [
            node.graph.create_node(
                "call_function", operator.getitem, (node, place), name=f"{node.name}_{place}"
            )
            for place in range(length)
        ]
    for user in [one for one in node.users if one in users]:
        user.args = fx.map_arg(user.args, lambda one: list(items) if one is node else one)
        user.kwargs = fx.map_arg(user.kwargs, lambda one: list(items) if one is node else one)


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
    return node.op == "call_function" and "dropout" in getattr(node.target, "__name__", "")
