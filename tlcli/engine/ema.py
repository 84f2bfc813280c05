"""An exponential moving average of the weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged_copy(model: nn.Module, *, decay: float) -> AveragedModel:
    """Return a copy of `model` that follows it as a moving average.

    The decay warms up as (1 + n) / (10 + n) after n updates, so that short runs are not dominated
    by the starting point (the rule of TensorFlow's ExponentialMovingAverage). The number of updates
    is a buffer of the copy and travels with its state. Tensors that do not move stay equal bit for
    bit.

    Args:
        model: The model in training.
        decay: In (0, 1), for example 0.9998.
    """

    def average(mean: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        """Return the new mean of one tensor; nothing here waits for the device."""
        if not mean.is_floating_point():
            return current
        count = torch.as_tensor(num_averaged, dtype=mean.dtype)
        weight = 1 - torch.clamp((1 + count) / (10 + count), max=decay)
        # lerp of two negative zeros is a positive one; what did not move must keep every bit
        return torch.where(mean == current, mean, torch.lerp(mean, current, weight))

    return AveragedModel(model, avg_fn=average, use_buffers=True)
