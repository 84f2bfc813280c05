"""An architecture built for the images that a user chose, and tried on a blank one."""

import torch
from torch import nn

from tlcli.backbones.catalog import SOURCES, BackboneName
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.errors import ModelError
from tlcli.results.counted import counted


def build_for_images(
    name: BackboneName,
    *,
    tag: str | None,
    input_size: int | None,
    in_channels: int = RGB_CHANNELS,
    num_classes: int | None = None,
) -> nn.Module:
    """Build with random weights and see whether images that the user chose go through.

    Args:
        name: The model.
        tag: Published weights in whose shape it is built.
        input_size: Side of the images in pixels; None is that of the weights.
        in_channels: Of the images.
        num_classes: Outputs of the head; None are those of the weights.

    Raises:
        ModelError: If they do not.
    """
    source = SOURCES[name.source]
    if input_size is None and in_channels == RGB_CHANNELS:
        return source.build(name.architecture, tag=tag, num_classes=num_classes)
    own = source.preprocessing(name.architecture, tag=tag).input_size
    size = own if input_size is None else (input_size, input_size)
    try:
        network = source.build(
            name.architecture,
            tag=tag,
            num_classes=num_classes,
            input_size=input_size,
            in_channels=in_channels,
        )
        with torch.inference_mode():
            network.eval()(torch.zeros(1, in_channels, *size))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        kinds, remedies = [], []
        if input_size is not None:
            kinds.append(f"{input_size}x{input_size} pixels")
            remedies.append(
                f"Its own --input-size is {own[0]}; multiples of 32, or of its patch and window, "
                "may do."
            )
        if in_channels != RGB_CHANNELS:
            kinds.append(counted(in_channels, "channel"))
            remedies.append("Its own are the 3 of RGB: leave --in-channels.")
        raise ModelError(
            f"{name} does not work on images of {' and '.join(kinds)} ({reason}). "
            f"{' '.join(remedies)}"
        ) from error
    return network
