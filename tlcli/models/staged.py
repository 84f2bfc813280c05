"""A network whose stages can be frozen and opened, and stay as they were put."""

from collections.abc import Iterable, Iterator, Sequence
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
        freeze_norm: Keep the statistics of every BatchNorm, in trained stages too; its weights are
            trained with their stage.
    """

    def __init__(
        self, network: nn.Module, *, stages: Sequence[Stage], freeze_norm: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.freeze_norm = freeze_norm
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
            is_kept = self.freeze_norm and has_statistics(module)
            if is_kept or (name and not self._holds_trained(name)):
                module.training = False
        return self

    def stage_of(self, tensor_name: str) -> Stage:
        """Return the stage that a parameter, buffer or module of the network lies in."""
        return next(stage for stage in self.stages if stage.owns(tensor_name))

    def frozen_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of every parameter and saved buffer that must not move."""
        statistics = self._kept_statistics() if self.freeze_norm else set()
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
            for name, module in self.network.named_modules()
            if has_statistics(module)
            for buffer, _ in module.named_buffers(recurse=False)
        }

    def _holds_trained(self, module_name: str) -> bool:
        """Say whether a module lies in a trained stage or is a parent of one's members."""
        return any(
            stage.owns(module_name) or any(m.startswith(f"{module_name}.") for m in stage.members)
            for stage in self.stages
            if stage.name in self.trained
        )


def has_statistics(module: nn.Module) -> bool:
    """Say whether a layer keeps running statistics, as every kind of BatchNorm does."""
    return isinstance(getattr(module, "running_mean", None), Tensor)
