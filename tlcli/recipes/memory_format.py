"""The memory format in which a network is trained, and moving it there."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from tlcli.engine.runtime import Runtime
from tlcli.models.staged import StagedModel
from tlcli.models.unfreezing import Phase
from tlcli.recipes.talk import Talk

_SAFE_CHANNELS = 16
"""From so many channels on PyTorch's strided 1x1 convolutions are safe."""


def place_for_training(
    runtime: Runtime, model: StagedModel, *, phases: Sequence[Phase], talk: Talk
) -> Runtime:
    """Move a model to the device.

    PyTorch 2.15 writes beyond its memory on the CPU where the backward pass of a 1x1 convolution
    with a stride and a few channels, such as RepVGG's and MobileOne's first layer, runs in
    channels-last format. Networks that would do so are trained in the other one.

    Args:
        runtime: Of this machine.
        model: The model.
        phases: That say what is trained.
        talk: Is told of another format.

    Returns:
        The runtime, perhaps with another memory format.
    """
    if runtime.channels_last and runtime.device.type == "cpu":
        unsafe = _unsafe_convolution(model, phases=phases)
        if unsafe is not None:
            talk.note(
                "Memory format: not channels-last, in which PyTorch crashes on the CPU when "
                f"'{unsafe}' is trained."
            )
            runtime = replace(runtime, channels_last=False)
    runtime.place_for_training(model)
    return runtime


def _unsafe_convolution(model: StagedModel, *, phases: Sequence[Phase]) -> str | None:
    """Return the first such layer that a gradient reaches in any phase."""
    trained = {name for phase in phases for name in phase.trained}
    first = next(place for place, stage in enumerate(model.stages) if stage.name in trained)
    reached = model.stages[first:]
    for name, layer in model.network.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and 1 < layer.in_channels // layer.groups < _SAFE_CHANNELS
            and model.stage_of(name) in reached
        ):
            return str(name)
    return None
