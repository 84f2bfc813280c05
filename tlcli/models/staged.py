"""A network whose stages can be frozen and opened, and stay as they were put."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tlcli.backbones.stages import HEAD, Stage


class StagedModel(nn.Module):
    """A network with named stages of which some are trained and the others frozen.

    Frozen means three things, and stays so after every `train()`: no gradient, eval mode
    (BatchNorm statistics, dropout and drop path stand still), and no stale `grad` that an
    optimizer with weight decay would act on.

    Modules are never swapped, so an optimizer may be built before any stage is opened.

    Args:
        network: A network of a source, changed in place.
        stages: All its stages.
        kept_norms: Names of BatchNorm layers that keep their statistics, in trained stages too;
            their weights are trained with their stage. `norms_of(network)` names all.

    Raises:
        ValueError: If a kept norm is no layer with statistics.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        stages: Sequence[Stage],
        kept_norms: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.kept_norms = frozenset(kept_norms)
        if unknown := self.kept_norms - norms_of(network):
            raise ValueError(f"no layers with statistics: {', '.join(sorted(unknown))}")
        self.stages = tuple(stages)
        self.trained: frozenset[str] = frozenset()
        self.open_stages([stage.name for stage in stages])

    def forward(self, *inputs: Any) -> Any:
        """Run the network."""
        return self.network(*inputs)

    def open_stages(self, names: Iterable[str]) -> None:
        """Train the named stages and freeze all others."""
        self.trained = frozenset(names)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self.stage_of(name).name in self.trained)
            if not parameter.requires_grad:
                parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> "StagedModel":
        """Switch to training or evaluation; what is frozen stays in eval mode either way."""
        super().train(mode)
        if not mode:
            return self
        for name, module in self.network.named_modules():
            if name in self.kept_norms or (name and not self._holds_trained(name)):
                module.training = False
        return self

    def stage_of(self, tensor_name: str) -> Stage:
        """Return the stage that a parameter, buffer or module of the network lies in."""
        return next(stage for stage in self.stages if stage.owns(tensor_name))

    def is_mixed(self, module_name: str) -> bool:
        """Say whether trained and frozen stages lie in a module; the whole network is ""."""
        kinds = {
            stage.name in self.trained
            for stage in self.stages
            if stage.owns(module_name) or _lies_in(module_name, stage)
        }
        return len(kinds) == 2

    def frozen_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of every parameter and saved buffer that must not move."""
        statistics = self._kept_statistics()
        for name, tensor in self.network.state_dict().items():
            if name in statistics or self.stage_of(name).name not in self.trained:
                yield name, tensor

    @property
    def body_stages(self) -> tuple[Stage, ...]:
        """All stages but the head, from the input on."""
        return tuple(stage for stage in self.stages if stage.name != HEAD)

    def _kept_statistics(self) -> set[str]:
        return {
            f"{name}.{buffer}"
            for name in self.kept_norms
            for buffer, _ in self.network.get_submodule(name).named_buffers(recurse=False)
        }

    def _holds_trained(self, module_name: str) -> bool:
        """Say whether a module lies in a trained stage or is a parent of one's members."""
        return any(
            stage.owns(module_name) or _lies_in(module_name, stage)
            for stage in self.stages
            if stage.name in self.trained
        )


def _lies_in(module_name: str, stage: Stage) -> bool:
    """Say whether a member of a stage lies in a module."""
    return any(not module_name or m.startswith(f"{module_name}.") for m in stage.members)


def has_statistics(module: nn.Module) -> bool:
    """Say whether a layer keeps running statistics, as every kind of BatchNorm does."""
    return isinstance(getattr(module, "running_mean", None), Tensor)


def norms_of(network: nn.Module) -> frozenset[str]:
    """Return the dotted names of all layers that keep running statistics."""
    return frozenset(name for name, module in network.named_modules() if has_statistics(module))
