"""The device, its number formats and its random numbers."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from tlcli.engine.cpu_memory import keep_freed_memory
from tlcli.errors import ConfigError, MachineError
from tlcli.models.gradient_layout import keep_gradients_channels_last


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and in which precision the model runs."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Dtype of mixed precision, or None for float32 throughout."""
    channels_last: bool
    seed: int

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model and its loss are computed."""
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def grad_scaler(self) -> GradScaler:
        """Return the scaler that float16 gradients need; it does nothing in other precisions."""
        return GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)

    def place(self, model: nn.Module) -> None:
        """Move a model to the device, in the memory format of the images."""
        model.to(self.device)
        if not self.channels_last:
            return
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.ndim == 4:  # as Module.to does, but for kernels of 3D convolutions too
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)

    def place_for_training(self, model: nn.Module) -> None:
        """Move a model, once, and let its backward pass keep to the memory format."""
        self.place(model)
        if self.channels_last and self.device.type == "cpu":
            keep_gradients_channels_last(model)

    def images(self, images: Tensor) -> Tensor:
        """Move images (B, C, H, W) to the device, in the memory format of the model."""
        moved = images.to(self.device, non_blocking=True)
        return moved.contiguous(memory_format=torch.channels_last) if self.channels_last else moved

    def seed_step(self, epoch: int, step: int) -> None:
        """Make dropout and drop path of a step depend on seed, epoch and step alone.

        So a resumed run needs no state of any random number generator.
        """
        words = np.random.SeedSequence((self.seed, epoch, step)).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def choose_runtime(
    device: str, *, amp: bool | None, amp_dtype: str, channels_last: bool, seed: int
) -> Runtime:
    """Pick the device and precision that a user's words mean on this machine.

    On the CPU numbers too small for all digits of their type (1e-38 in float32) count as zero from
    now on: it computes with them many times slower, and saturated networks are full of them.

    Args:
        device: `auto` (CUDA, else MPS, else CPU), or a torch device such as `cuda:1`.
        amp: Mixed precision; None means on for CUDA only.
        amp_dtype: `auto` (bfloat16 where the device computes with it), `bfloat16` or `float16`.
        channels_last: Keep images and convolutions in channels-last memory format.
        seed: Of everything random.

    Raises:
        ConfigError: If the words mean no device, or a precision that would not be used.
        MachineError: If the device does not exist here or cannot do what is asked.
    """
    chosen = _parse_device(_best_device() if device == "auto" else device)
    if chosen.type not in _devices_here():
        raise MachineError(
            f"--device {device}: there is no {chosen.type} device here. "
            f"This machine has: {', '.join(_devices_here())}."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices, "
            "counted from 0."
        )
    if chosen.type == "cpu":
        keep_freed_memory()
        torch.set_flush_denormal(True)  # before there are threads, which take it over
    use_amp = chosen.type == "cuda" if amp is None else amp
    if amp_dtype != "auto" and not use_amp:
        raise ConfigError(
            f"--amp-dtype {amp_dtype} has no effect: mixed precision is off on {chosen.type} "
            "unless --amp is given."
        )
    dtype = _amp_dtype(amp_dtype, device=chosen) if use_amp else None
    return Runtime(device=chosen, amp_dtype=dtype, channels_last=channels_last, seed=seed)


def _parse_device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise ConfigError(
            f"--device '{text}' is no device: use auto, cpu, cuda, cuda:1 or mps."
        ) from error


def _devices_here() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _best_device() -> str:
    return next(name for name in ("cuda", "mps", "cpu") if name in _devices_here())


def _amp_dtype(name: str, *, device: torch.device) -> torch.dtype:
    if name == "auto":
        has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if name == "float16" and device.type == "cpu":
        raise MachineError("--amp-dtype float16 needs a GPU; use bfloat16 on the CPU, or --no-amp.")
    return torch.bfloat16 if name == "bfloat16" else torch.float16


def describe_environment(runtime: Runtime) -> dict[str, Any]:
    """Return what `run.json` says of the software and the machine."""
    import platform

    import timm
    import torchvision

    import tlcli

    is_cuda = runtime.device.type == "cuda"
    name = torch.cuda.get_device_name(runtime.device) if is_cuda else runtime.device.type
    return {
        "tlcli": tlcli.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "platform": platform.platform(),
        "device": str(runtime.device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "amp_dtype": str(runtime.amp_dtype) if runtime.amp_dtype else None,
        "channels_last": runtime.channels_last,
    }
