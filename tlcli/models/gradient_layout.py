"""Gradients in the memory format of the layers that they reach."""

from typing import Any

import torch
from torch import Tensor, nn


def keep_gradients_channels_last(network: nn.Module) -> None:
    """Hand BatchNorm layers their gradients in channels-last format, in place.

    The backward pass of an activation (ReLU6, SiLU) behind which images are pooled gives gradients
    in another format than the images have, and PyTorch's BatchNorm on the CPU takes five to ten
    times as long where the two differ: for EfficientNet-Lite0 that one layer is a quarter of a step
    in which the last two stages are trained. The numbers stay the same but for the order in which
    they are added up.

    Args:
        network: Runs on the CPU, in channels-last format.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(_convert_gradient)


def _convert_gradient(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
    """Convert the gradient of an output once it is known; torch.fx gives none of its own."""
    if not isinstance(output, Tensor) or not output.requires_grad:
        return
    if output.is_contiguous(memory_format=torch.channels_last):
        output.register_hook(_channels_last)  # type: ignore[no-untyped-call]


def _channels_last(gradient: Tensor) -> Tensor:
    """Return the gradient (B, C, H, W) itself where it has that format."""
    return gradient.contiguous(memory_format=torch.channels_last)
