"""Networks that were trained on RGB pictures, taught to take another number of channels.

The law is timm's, for both sources: one channel gets the sum of the weights for red, green and
blue, so that a gray picture gives what the same picture in RGB gave; n channels repeat them in
turn, times 3/n.
"""

from collections.abc import Mapping
from dataclasses import replace

from timm.models import adapt_input_conv
from torch import Tensor, nn

from tlcli.data.preprocessing import RGB_CHANNELS, Preprocessing
from tlcli.errors import ModelError, WeightsError
from tlcli.results.counted import counted


def for_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """Return the preprocessing of RGB pictures for another number of channels.

    Each gets the average of the three means and of the three standard deviations, as in timm's
    `resolve_input_data_config`.
    """
    if channels == preprocessing.channels:
        return preprocessing
    mean, std = (
        (sum(values) / len(values),) * channels
        for values in (preprocessing.mean, preprocessing.std)
    )
    return replace(preprocessing, mean=mean, std=std)


def set_input_channels(network: nn.Module, channels: int) -> None:
    """Let a network of torchvision take pictures of `channels` channels, in place.

    In all of them the first convolution is the one layer that sees the picture.
    """
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    first.weight = nn.Parameter(adapt_input_conv(channels, first.weight.detach()))
    first.in_channels = channels


def adapted_input(
    network: nn.Module, tensors: Mapping[str, Tensor], *, channels: int, origin: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return tensors whose first layers take `channels` channels, and the names of those layers.

    A first layer is one whose weights differ from the network's in nothing but the number of
    channels; what was trained on `channels` of them stays as it is.

    Args:
        network: Built for `channels`; not changed.
        tensors: Of a network for RGB pictures, by the keys of `network`.
        channels: 1 or more.
        origin: What the tensors are called in messages.

    Raises:
        ModelError: If timm's law knows no weights for so many channels.
        WeightsError: If the tensors were trained on yet another number of channels.
    """
    adapted: dict[str, Tensor] = {}
    wanted = network.state_dict()
    for key, tensor in tensors.items():
        if key not in wanted or not _differ_in_channels(tensor, wanted[key]):
            continue
        layer = key.removesuffix(".weight")
        if tensor.shape[1] * channels == wanted[key].shape[1] * RGB_CHANNELS:
            adapted[key] = _adapted(tensor, channels=channels, layer=layer, origin=origin)
        elif wanted[key].shape[1] == channels:
            theirs = tensor.shape[1]
            raise WeightsError(
                f"{origin} was trained on pictures of {counted(theirs, 'channel')}, as its layer "
                f"{layer} tells, not of {channels}. Give --in-channels {theirs}."
            )
    layers = tuple(key.removesuffix(".weight") for key in adapted)
    return {**tensors, **adapted}, layers


def adaptation_remark(layers: tuple[str, ...], *, channels: int) -> tuple[str, ...]:
    """Say what became of the first layers; nothing if none was adapted."""
    if not layers:
        return ()
    law = "the weights summed" if channels == 1 else f"the weights repeated, times 3/{channels}"
    noun = "layer" if len(layers) == 1 else "layers"
    wanted = counted(channels, "channel")
    return (f"first {noun} {', '.join(layers)} adapted from RGB to {wanted}: {law}",)


def _differ_in_channels(tensor: Tensor, wanted: Tensor) -> bool:
    """Say whether two shapes are the same but for the second axis."""
    ours, theirs = list(wanted.shape), list(tensor.shape)
    return (
        len(ours) == len(theirs) >= 2
        and ours[1] != theirs[1]
        and ours[:1] + ours[2:] == theirs[:1] + theirs[2:]
    )


def _adapted(tensor: Tensor, *, channels: int, layer: str, origin: str) -> Tensor:
    try:
        weight: Tensor = adapt_input_conv(channels, tensor, base_chans=RGB_CHANNELS)
    except (NotImplementedError, AssertionError) as error:
        raise ModelError(
            f"{origin}: the weights of {layer} cannot be adapted from RGB to {channels} channels "
            f"({error}). Use --in-channels 3, another model, or --weights none."
        ) from error
    return weight
