"""What is left out at random in training: blocks of a network, and features before its head."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import DropBlock2d, DropPath, PatchDropout
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from tlcli.errors import ConfigError

_RATES = ("p", "drop_prob", "prob")
"""What layers that leave something out at random call its probability."""
_RANDOM_LAYERS = (
    nn.modules.dropout._DropoutNd,
    DropBlock2d,
    DropPath,
    PatchDropout,
    StochasticDepth,
)
_PLACE = re.compile(r"(\w+_)?drop_path\d*")
"""What timm calls the place in a block; without a rate there is an identity, or nothing."""


def set_drop_path(network: nn.Module, *, rate: float) -> tuple[str, ...]:
    """Let a network skip blocks in training, in place, and return the names of those blocks.

    A network of timm gets the rates that timm gives its architecture. Of others the first block is
    never skipped, the last with probability `rate`, those between in proportion to their depth
    (Huang et al., "Deep Networks with Stochastic Depth", 2016).

    Args:
        network: The bare network of a source.
        rate: In [0, 1); 0 skips none.

    Raises:
        ConfigError: If it has no such blocks.
    """
    blocks = [name for name, module in network.named_modules() if _places(module)]
    if not any(_can_be_skipped(network.get_submodule(name)) for name in blocks):
        raise ConfigError(
            f"--drop-path {rate:g} has no effect on this network: it has no blocks that can be "
            "skipped."
        )
    by_depth = np.linspace(0, rate, len(blocks)) if len(blocks) > 1 else [rate]
    of_timm = _rates_of_timm(network, rate=rate)
    skipped = []
    for name, own_rate in zip(blocks, by_depth, strict=True):
        block = network.get_submodule(name)
        rates = {
            place: of_timm.get(f"{name}.{place}", 0.0) if of_timm else float(own_rate)
            for place in _places(block)
        }
        for place, place_rate in rates.items():
            _set_rate(block, place, rate=place_rate)
        if any(rates.values()) and _can_be_skipped(block):
            skipped.append(name)
    return tuple(skipped)


def is_stochastic(module: nn.Module) -> bool:
    """Say whether a module, in the mode that it is in, leaves something out at random."""
    return any(
        layer.training and any(getattr(layer, rate, 0) for rate in _RATES)
        for layer in module.modules()
        if isinstance(layer, _RANDOM_LAYERS)
    )


def _rates_of_timm(network: nn.Module, *, rate: float) -> dict[str, float]:
    """Return the rate that timm gives each place in an architecture of its own, where not 0."""
    architecture = (getattr(network, "pretrained_cfg", None) or {}).get("architecture")
    if architecture is None or not rate:
        return {}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            pattern = timm.create_model(architecture, drop_path_rate=rate)
    except TypeError:  # one that has no such argument
        return {}
    layers = pattern.named_modules()
    return {
        name: float(layer.drop_prob)
        for name, layer in layers
        if isinstance(layer, DropPath) and layer.drop_prob
    }


def _can_be_skipped(block: nn.Module) -> bool:
    """Say whether there is a way around a block; some that change the size have none."""
    has_way = getattr(block, "has_skip", True) and getattr(block, "use_res_connect", True)
    return bool(has_way)


def _places(block: nn.Module) -> list[str]:
    """Return the attributes of a block that skip it, or could."""
    attributes: dict[str, Any] = {**vars(block), **dict(block.named_children())}
    return [
        name
        for name, value in attributes.items()
        if isinstance(value, StochasticDepth)
        or (_PLACE.fullmatch(name) and isinstance(value, DropPath | nn.Identity | None))
    ]


def _set_rate(block: nn.Module, place: str, *, rate: float) -> None:
    layer = getattr(block, place)
    if isinstance(layer, StochasticDepth):
        layer.p = rate
    elif isinstance(layer, DropPath):
        layer.drop_prob = rate
    elif rate:
        setattr(block, place, DropPath(rate))


@dataclass(frozen=True)
class _InputDropout:
    """Drop inputs of a layer in training; a hook, since a layer would rename the weights."""

    rate: float

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (F.dropout(inputs[0], self.rate, training=layer.training), *inputs[1:])


def set_head_dropout(network: nn.Module, *, head_names: Sequence[str], rate: float) -> None:
    """Put dropout in front of the heads, in place of what is there (Srivastava et al. 2014).

    Args:
        network: The bare network of a source.
        head_names: Dotted names of its heads.
        rate: Share of the features that are dropped, in [0, 1).
    """
    for name in head_names:
        former = _layer_before(network, name)
        if isinstance(former, nn.Dropout):
            former.p = 0.0
        network.get_submodule(name).register_forward_pre_hook(_InputDropout(rate))


def _layer_before(network: nn.Module, name: str) -> nn.Module | None:
    """Return the layer that stands in front of another in the same part of the network."""
    parent_name, _, child = name.rpartition(".")
    children = dict(network.get_submodule(parent_name).named_children())
    names = list(children)
    position = names.index(child)
    return children[names[position - 1]] if position else None
