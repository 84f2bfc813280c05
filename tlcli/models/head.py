"""The layers between features and classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from tlcli.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What `--head` asks for: hidden widths and the dropout behind each; none of both is linear."""

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0


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
    """Put new heads on a network, in place.

    A linear last layer starts at zero, so that training starts from equal probabilities and the
    first step does not push noise into the pretrained layers.

    Args:
        network: The bare network of a source; its heads are linear layers or 1x1 convolutions.
        head_names: Dotted names of the heads (two for distilled models).
        num_classes: Outputs of each new head.
        spec: Hidden layers of each new head.
    """
    for name in head_names:
        old = network.get_submodule(name)
        network.set_submodule(name, _head_like(old, num_classes=num_classes, spec=spec))
    if hasattr(network, "num_classes"):
        setattr(network, "num_classes", num_classes)  # noqa: B010 (mypy: a Module has no such field)


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
    if isinstance(last, nn.Linear):
        nn.init.zeros_(last.weight)
    # SqueezeNet closes its convolutional head with a ReLU, behind which zeros would never learn.
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last) if layers else last
