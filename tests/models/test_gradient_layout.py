import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from tlcli.models.gradient_layout import keep_gradients_channels_last


def gradients_of_norms(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what the backward pass hands to each BatchNorm layer, from the last to the first.

    With its activation, where that is a part of it.
    """
    found: list[Tensor] = []

    def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.register_hook(found.append)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(watch)
    network(images).square().sum().backward()
    return found


def network_of(name: str) -> nn.Module:
    if name != "plain":
        return timm.create_model(name)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize("name", ["plain", "test_efficientnet"])
def test_keep_gradients_channels_last__reaches_every_norm_and_changes_no_number(name: str) -> None:
    torch.manual_seed(0)
    network = network_of(name)
    network.double().to(memory_format=torch.channels_last).train()
    images = torch.rand(4, 3, 64, 64).double().contiguous(memory_format=torch.channels_last)
    kept = copy.deepcopy(network)
    keep_gradients_channels_last(kept)

    theirs, ours = gradients_of_norms(network, images), gradients_of_norms(kept, images)

    assert all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in ours)
    assert not theirs[0].is_contiguous(memory_format=torch.channels_last)
    for mine, other in zip(kept.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["plain", "test_efficientnet"])
def test_keep_gradients_channels_last__networks_are_still_traced_and_judged(name: str) -> None:
    """Of timm's layers, the tracer follows the code; it calls the hooks with what has no values."""
    network = network_of(name).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = network(images).detach()
    keep_gradients_channels_last(network)

    traced = torch.fx.symbolic_trace(network)

    assert torch.equal(traced(images), expected)
    with torch.inference_mode():
        assert torch.equal(network(images), expected)


def test_keep_gradients_channels_last__leaves_other_formats_alone() -> None:
    norm = nn.BatchNorm2d(8)
    keep_gradients_channels_last(norm)

    (gradient,) = gradients_of_norms(norm, torch.rand(4, 8, 3, 3))

    assert gradient.is_contiguous()
