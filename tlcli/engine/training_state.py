"""All that moves during training, and how it is put down and taken up again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from tlcli.errors import DataError
from tlcli.models.frozen_proof import digests_of
from tlcli.models.staged import StagedModel
from tlcli.models.unfreezing import Phase, phase_of
from tlcli.results.atomic import machine_errors, replacing

_FROZEN = "frozen-{}.pt"
_AVERAGED = "module.network."
"""Before the names of a network's tensors in the state of their averages."""


@dataclass(kw_only=True)
class TrainingState:
    """A run between two steps: weights, optimizer, and how far it is."""

    model: StagedModel
    optimizer: Optimizer
    scheduler: LRScheduler
    phases: Sequence[Phase]
    ema: AveragedModel | None = None
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in the epoch that is under way."""
    loss_sums: list[Tensor] = field(default_factory=list)
    """Sum of the loss over the images of each of these steps, on the device."""
    rates: dict[str, float | None] = field(default_factory=dict)
    """Learning rates of `head` and `backbone` when the epoch under way began."""
    phase: int | None = None
    """Index of the phase that the model was last opened for."""
    frozen_digests: dict[str, str] = field(default_factory=dict)
    """Of all tensors frozen in this phase, taken when it began."""

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and saved: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def judged_network(self) -> nn.Module:
        """The bare network of `judged`, whose tensors have the source library's names."""
        network = self.judged.network
        assert isinstance(network, nn.Module)
        return network

    def enter_phase(self) -> None:
        """Open the stages of the phase that the next epoch lies in."""
        self.phase = phase_of(self.epoch, self.phases)
        self.model.open_stages(self.phases[self.phase].trained)

    def phase_is_over(self) -> bool:
        """Say whether the next epoch lies in another phase than the last one."""
        return phase_of(self.epoch, self.phases) != self.phase

    def save(self, path: Path, *, extra: dict[str, Any]) -> None:
        """Write everything, in whole or not at all.

        What is frozen in a phase is written once, to a file beside `path` and before it, not with
        every epoch; that of a former phase is deleted after it. A frozen tensor that moves against
        all rules is put back by `load`.

        Args:
            path: Replaced only when the new file is complete.
            extra: Plain values that belong to the same moment.
        """
        weights = self.model.network.state_dict()
        frozen = {name: weights.pop(name) for name in self.frozen_digests}
        frozen_path = self._frozen_path(path) if frozen else None
        if frozen_path and not frozen_path.exists():
            _write(frozen_path, frozen)
        values = {
            "model": weights,
            "frozen": frozen_path and frozen_path.name,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": None if self.ema is None else _without(frozen, self.ema.state_dict()),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sums": [tensor.cpu() for tensor in self.loss_sums],
            "rates": self.rates,
            "phase": self.phase,
            "trained": sorted(self.model.trained),
            "frozen_digests": self.frozen_digests,
            "extra": extra,
        }
        _write(path, values)
        for former in set(path.parent.glob(_FROZEN.format("*"))) - {frozen_path}:
            with machine_errors(former, action="delete"):
                former.unlink(missing_ok=True)

    def _frozen_path(self, path: Path) -> Path:
        """Return where the frozen tensors belong: the name follows from what they hold."""
        digests = json.dumps(self.frozen_digests, sort_keys=True)
        return path.with_name(_FROZEN.format(hashlib.sha256(digests.encode()).hexdigest()[:16]))

    def _read_frozen(self, path: Path, *, device: torch.device) -> dict[str, Tensor]:
        frozen = _read(path, device=device)
        if digests_of(frozen.items()) != self.frozen_digests:
            raise DataError(
                f"The checkpoint {path} is damaged: it does not hold what was frozen. Start the "
                "run anew with --overwrite."
            )
        return frozen

    def load(self, path: Path, *, device: torch.device) -> dict[str, Any]:
        """Take up the state of a file that `save` wrote; return its `extra`.

        Raises:
            DataError: If the file cannot be read or belongs to another unfreezing plan.
        """
        values = _read(path, device=device)
        ours = [group["names"] for group in self.optimizer.param_groups]
        if [group.get("names") for group in values["optimizer"]["param_groups"]] != ours:
            raise DataError(
                f"{path} groups its parameters in another way than this run's options do. "
                "Start the run anew with --overwrite."
            )
        self.phase = values["phase"]
        if self.phase is not None:
            self._reopen(values["trained"], path=path)
        self.frozen_digests = values["frozen_digests"]
        frozen = {}
        if values.get("frozen"):
            frozen = self._read_frozen(path.with_name(values["frozen"]), device=device)
        self.model.network.load_state_dict(values["model"] | frozen)
        self.optimizer.load_state_dict(values["optimizer"])
        self.scheduler.load_state_dict(values["scheduler"])
        self.scaler.load_state_dict(values["scaler"])
        if self.ema is not None:
            averages = {_AVERAGED + name: tensor for name, tensor in frozen.items()}
            self.ema.load_state_dict(averages | values["ema"])
        self.epoch, self.step = values["epoch"], values["step"]
        self.loss_sums = [tensor.to(device) for tensor in values["loss_sums"]]
        self.rates = values["rates"]
        extra: dict[str, Any] = values["extra"]
        return extra

    def _reopen(self, trained: Sequence[str], *, path: Path) -> None:
        """Open the stages that were trained, if the plan says the same of this phase."""
        planned = self.phases[self.phase or 0].trained
        if set(trained) != set(planned):
            raise DataError(
                f"{path} was saved while {', '.join(trained)} were trained, but the "
                f"run's plan says {', '.join(planned)} at that epoch."
            )
        self.model.open_stages(planned)


def _without(frozen: Mapping[str, Tensor], averages: dict[str, Any]) -> dict[str, Any]:
    """Leave out of the state of averages those of frozen tensors, which equal them."""
    same = {
        _AVERAGED + name
        for name, tensor in frozen.items()
        if _AVERAGED + name in averages and torch.equal(averages[_AVERAGED + name], tensor)
    }
    return {name: value for name, value in averages.items() if name not in same}


def _write(path: Path, values: dict[str, Any]) -> None:
    # through a file of Python's own, whose errors tell a full disk from a fault of ours
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(values, file)


def _read(path: Path, *, device: torch.device) -> dict[str, Any]:
    try:
        values: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"The checkpoint {path} cannot be read ({reason}). Start the run anew with --overwrite."
        ) from error
    return values
