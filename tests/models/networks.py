"""Random networks of both sources for the tests of features."""

import copy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from tlcli.backbones.catalog import SOURCES
from tlcli.backbones.stages import Stage, find_stages


@dataclass(frozen=True, kw_only=True)
class Sample:
    network: nn.Module
    head_names: tuple[str, ...]
    stages: tuple[Stage, ...]
    input_size: tuple[int, int]

    def images(self, seed: int = 0, count: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, *self.input_size, generator=generator)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def randomize_norms(network: nn.Module) -> None:
    """Give every BatchNorm statistics and parameters that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if not isinstance(getattr(module, "running_var", None), Tensor):
            continue
        module.running_mean.normal_(0, 0.1, generator=generator)
        module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(getattr(module, "weight", None), Tensor):
            module.weight.data.uniform_(0.7, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)


@cache
def _sample(name: str, side: int | None) -> Sample:
    torch.manual_seed(0)
    source_name, _, architecture = name.partition("/")
    source = SOURCES[source_name]
    network = source.build(architecture, tag=None, num_classes=None).eval()
    randomize_norms(network)
    heads = source.head_names(network)
    size = source.preprocessing(architecture, tag=None).input_size
    return Sample(
        network=network,
        head_names=heads,
        stages=find_stages(network, head_names=heads),
        input_size=(side, side) if side else size,
    )


def sample(name: str, side: int | None = None) -> Sample:
    """A network of one's own; `side` None is the size that the published weights want."""
    found = _sample(name, side)
    return Sample(**{**vars(found), "network": copy.deepcopy(found.network)})
