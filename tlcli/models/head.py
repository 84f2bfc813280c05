"""The layers between features and classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tlcli.backbones.protocol import head_width
from tlcli.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """A head: hidden widths and the dropout behind each; none of both is linear.

    With `neighbours` it is a k-NN head on a bank of `bank` stored features instead.
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    neighbours: int | None = None
    bank: int | None = None

    @property
    def kind(self) -> Literal["linear", "mlp", "knn"]:
        """What is made of the features."""
        if self.neighbours is not None:
            return "knn"
        return "mlp" if self.hidden else "linear"


def parse_head(text: str) -> HeadSpec:
    """Read `linear`, `mlp:512` or `mlp:512,256,0.3` (widths, then dropout).

    Raises:
        ConfigError: If the text is none of these.
    """
    if text == "linear":
        return HeadSpec()
    kind, _, numbers = text.partition(":")
    try:
        fields = [float(number) for number in numbers.split(",")]
    except ValueError:
        fields = []
    dropout = fields.pop() if fields and 0 <= fields[-1] < 1 else 0.0
    if kind != "mlp" or not fields or not all(f >= 1 and f.is_integer() for f in fields):
        raise ConfigError(
            f"--head '{text}' is not understood. Use 'linear', 'mlp:512' or 'mlp:512,0.3' "
            "(hidden widths, then dropout)."
        )
    return HeadSpec(hidden=tuple(int(width) for width in fields), dropout=dropout)


def replace_heads(
    network: nn.Module, *, head_names: Sequence[str], num_classes: int, spec: HeadSpec
) -> None:
    """Put new linear or MLP heads on a network, in place.

    The last layer starts at zero, so that training starts from equal probabilities and the first
    step does not push noise into the pretrained layers. A ReLU right behind a convolutional head
    (SqueezeNet) becomes the identity: logits are negative too, and behind a ReLU zeros would never
    learn.

    Args:
        network: The bare network of a source; its heads are linear layers or 1x1 convolutions.
        head_names: Dotted names of the heads (two for distilled models).
        num_classes: Outputs of each new head.
        spec: Hidden layers of each new head.
    """
    for name in head_names:
        old = network.get_submodule(name)
        network.set_submodule(name, _head_like(old, num_classes=num_classes, spec=spec))
        if isinstance(old, nn.Conv2d):
            _remove_relu_behind(network, name)
    if hasattr(network, "num_classes"):
        setattr(network, "num_classes", num_classes)  # noqa: B010 (mypy: a Module has no such field)


def set_linear_head(
    network: nn.Module, *, head_names: Sequence[str], weight: Tensor, bias: Tensor
) -> None:
    """Put a linear map of the embedding into the network's own heads, in place.

    Where several heads are averaged (distilled models) each gets its columns times the number of
    heads, so that the average is the map. Where the embedding is as wide as the first head alone,
    the others are auxiliary (VOLO) and become zero. Networks that combine their heads in other
    ways exist, so compare the result with the map.

    Args:
        network: Its heads are linear layers or 1x1 convolutions.
        head_names: Dotted names of the heads, in the order of the embedding's columns.
        weight: Shape (K, D), D as `FeatureExtractor.feature_dim`.
        bias: Shape (K,).

    Raises:
        ModelError: If D is the width of no such embedding.
    """
    spec = HeadSpec()
    replace_heads(network, head_names=head_names, num_classes=weight.shape[0], spec=spec)
    layers = [network.get_submodule(name) for name in head_names]
    widths = [head_width(layer) for layer in layers]
    if weight.shape[1] == widths[0]:
        layers, widths = layers[:1], widths[:1]
    if weight.shape[1] != sum(widths):
        raise ModelError(
            f"A head on {weight.shape[1]} features does not fit this network, whose heads take "
            f"{' + '.join(map(str, widths))}. Use features of its embedding."
        )
    with torch.no_grad():
        for layer, columns in zip(layers, torch.split(weight, widths, dim=1), strict=True):
            target = layer.get_parameter("weight")
            target.copy_((columns * len(layers)).reshape(target.shape))
            layer.get_parameter("bias").copy_(bias)


def read_linear_head(network: nn.Module, *, head_names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return weight (K, D) and bias (K,) of a network's linear heads; undoes `set_linear_head`.

    Heads behind the first that are zero throughout count as auxiliary.
    """
    layers = [network.get_submodule(name) for name in head_names]
    if not any(p.any() for layer in layers[1:] for p in layer.parameters()):
        layers = layers[:1]
    weights = [layer.get_parameter("weight").detach().flatten(1) for layer in layers]
    biases = [layer.get_parameter("bias").detach() for layer in layers]
    return torch.cat(weights, dim=1) / len(layers), torch.stack(biases).mean(dim=0)


def _remove_relu_behind(network: nn.Module, name: str) -> None:
    parent_name, _, child = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    if not isinstance(parent, nn.Sequential):
        return
    children = [key for key, _ in parent.named_children()]
    behind = children[children.index(child) + 1 :][:1]
    if behind and isinstance(parent.get_submodule(behind[0]), nn.ReLU):
        parent.set_submodule(behind[0], nn.Identity())


def _head_like(old: nn.Module, *, num_classes: int, spec: HeadSpec) -> nn.Module:
    """Build a head for the inputs of `old`, of the same kind of layers."""
    layer: Callable[[int, int], nn.Linear | nn.Conv2d]
    if isinstance(old, nn.Linear):
        width, layer = old.in_features, nn.Linear
    elif isinstance(old, nn.Conv2d):
        width, layer = old.in_channels, lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1)
    else:
        raise TypeError(f"a head of type {type(old).__name__} is neither linear nor convolutional")
    layers: list[nn.Module] = []
    for hidden in spec.hidden:
        layers += [layer(width, hidden), nn.GELU(), nn.Dropout(spec.dropout)]
        width = hidden
    last = layer(width, num_classes)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last) if layers else last
