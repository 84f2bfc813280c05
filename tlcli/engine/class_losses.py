"""Losses of classifiers, of one class per image or any number: certain, mixed, weighted labels."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross-entropy", "focal"]
BinaryLossName = Literal["bce", "focal"]


def balanced_weights(
    targets: npt.NDArray[np.int64], *, num_classes: int
) -> npt.NDArray[np.float64]:
    """Return the weight of each class, shape (C,), with which all count the same.

    N / (C n) for a class with n of N images (King & Zeng, "Logistic Regression in Rare Events
    Data", 2001), so that the mean over the images is 1. Classes without an image have weight 0.

    Args:
        targets: Class indices, shape (N,).
        num_classes: C.
    """
    counts = np.bincount(targets, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = len(targets) / (present.sum() * counts[present])
    return weights


def balanced_positive_weights(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the weight of having each class, shape (C,), with which having it counts as much.

    Images without a class by images with it, the `pos_weight` that PyTorch's documentation of
    `BCEWithLogitsLoss` suggests. A class that all images have, or none has, keeps weight 1.

    Args:
        labels: Which classes each image has, shape (N, C).
    """
    having = labels.sum(axis=0)
    is_mixed = (having > 0) & (having < len(labels))
    weights = np.ones(labels.shape[1])
    weights[is_mixed] = (len(labels) - having[is_mixed]) / having[is_mixed]
    return weights


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float, weights: Tensor | None
) -> Tensor:
    """Return the mean cross-entropy over the images.

    With weights it is the mean of the weighted losses, not a weighted mean: batches of an
    optimizer step then add up to the same, however they are cut.

    Args:
        logits: Shape (B, C).
        targets: Class indices (B,), or shares of the classes (B, C).
        label_smoothing: Share spread over all classes (Szegedy et al. 2016).
        weights: Of the classes, shape (C,).
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(
        logits, targets, weight=weights, label_smoothing=label_smoothing, reduction="none"
    )
    return losses.mean()


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float, weights: Tensor | None) -> Tensor:
    """Return the mean focal loss, -(1 - p)^gamma log p of the true class, over the images.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4; with weights eq. 5. Of a mixed
    image it is the mixture of the losses of its classes.

    Args:
        logits: Shape (B, C).
        targets: Class indices (B,), or shares of the classes (B, C).
        gamma: 0 gives the cross-entropy.
        weights: Of the classes, shape (C,).
    """
    log_probs = logits.log_softmax(dim=1)
    shares = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[1])
    # 1 - p, floored where float32 rounds it to 0: the slope of a power below 1 is infinite there
    others = (-torch.expm1(log_probs)).clamp_min(torch.finfo(log_probs.dtype).tiny)
    terms = -(others**gamma) * log_probs * shares
    if weights is not None:
        terms = terms * weights
    return terms.sum(dim=1).mean()


def binary_cross_entropy(
    logits: Tensor, shares: Tensor, *, label_smoothing: float, positive_weights: Tensor | None
) -> Tensor:
    """Return the binary cross-entropy, the mean over the images and over the classes.

    Args:
        logits: Shape (B, C).
        shares: Of each class in each image, in 0..1, shape (B, C).
        label_smoothing: Draws the shares towards one half, s (1 - e) + e / 2.
        positive_weights: Of having each class, shape (C,).
    """
    if label_smoothing:
        shares = shares * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, shares, pos_weight=positive_weights)


def binary_focal_loss(
    logits: Tensor, shares: Tensor, *, gamma: float, positive_weights: Tensor | None
) -> Tensor:
    """Return the focal loss of every yes and no, the mean over the images and over the classes.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4, which is torchvision's
    `sigmoid_focal_loss` with `alpha=-1`. Of a mixed image it is the mixture of the losses.

    Args:
        logits: Shape (B, C).
        shares: Of each class in each image, in 0..1, shape (B, C).
        gamma: 0 gives the binary cross-entropy.
        positive_weights: Of having each class, shape (C,).
    """
    loss_of_yes, loss_of_no = F.softplus(-logits), F.softplus(logits)  # -log p and -log (1 - p)
    # powers of probabilities as exponentials: their slopes stay finite where one rounds to 0
    yes = shares * torch.exp(-gamma * loss_of_no) * loss_of_yes
    no = (1 - shares) * torch.exp(-gamma * loss_of_yes) * loss_of_no
    if positive_weights is not None:
        yes = yes * positive_weights
    return (yes + no).mean()
