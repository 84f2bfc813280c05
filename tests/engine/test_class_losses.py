import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from tlcli.engine.class_losses import (
    balanced_positive_weights,
    balanced_weights,
    binary_cross_entropy,
    binary_focal_loss,
    cross_entropy,
    focal_loss,
)

LOGITS = 3 * torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 1, 1, 2, 3, 1])
SHARES = torch.rand(7, 4, generator=torch.Generator().manual_seed(2)).softmax(dim=1)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 4.0])


@given(targets=st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_balanced_weights__are_sklearns_and_have_mean_one(targets: list[int]) -> None:
    known = np.array(targets)

    weights = balanced_weights(known, num_classes=7)

    classes = np.unique(known)
    expected = compute_class_weight("balanced", classes=classes, y=known)
    np.testing.assert_allclose(weights[classes], expected)
    assert weights[known].mean() == pytest.approx(1)
    assert not np.delete(weights, classes).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy__weights_multiply_the_loss_of_an_image(smoothing: float) -> None:
    found = cross_entropy(LOGITS, TARGETS, label_smoothing=smoothing, weights=WEIGHTS)

    wanted = (1 - smoothing) * F.one_hot(TARGETS, 4) + smoothing / 4
    losses = -(WEIGHTS * wanted * LOGITS.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(found, losses.mean())


def test_cross_entropy__weighted_batches_add_up_however_they_are_cut() -> None:
    whole = cross_entropy(LOGITS, TARGETS, label_smoothing=0.0, weights=WEIGHTS)
    first, second = (
        cross_entropy(LOGITS[rows], TARGETS[rows], label_smoothing=0.0, weights=WEIGHTS)
        for rows in (slice(0, 2), slice(2, 7))
    )
    torch.testing.assert_close(2 / 7 * first + 5 / 7 * second, whole)


def test_cross_entropy__of_shares() -> None:
    found = cross_entropy(LOGITS, SHARES, label_smoothing=0.0, weights=None)
    torch.testing.assert_close(found, -(SHARES * LOGITS.log_softmax(dim=1)).sum(dim=1).mean())


@pytest.mark.parametrize("targets", [TARGETS, SHARES], ids=["indices", "shares"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_focal_loss__gamma_zero_is_cross_entropy(
    targets: torch.Tensor, weights: torch.Tensor | None
) -> None:
    torch.testing.assert_close(
        focal_loss(LOGITS, targets, gamma=0.0, weights=weights),
        cross_entropy(LOGITS, targets, label_smoothing=0.0, weights=weights),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss__of_two_classes_is_torchvisions(gamma: float) -> None:
    """The softmax of (0, x) is the sigmoid of x."""
    logits = torch.stack((torch.zeros(7), LOGITS[:, 0]), dim=1)
    targets = TARGETS % 2

    theirs = sigmoid_focal_loss(
        LOGITS[:, 0], targets.float(), alpha=-1, gamma=gamma, reduction="mean"
    )

    torch.testing.assert_close(focal_loss(logits, targets, gamma=gamma, weights=None), theirs)


def test_focal_loss__is_the_formula() -> None:
    probs = LOGITS.softmax(dim=1)[range(7), TARGETS]
    expected = (WEIGHTS[TARGETS] * (1 - probs) ** 2 * -probs.log()).mean()

    torch.testing.assert_close(focal_loss(LOGITS, TARGETS, gamma=2.0, weights=WEIGHTS), expected)


def test_focal_loss__of_a_mixture_is_the_mixture_of_the_losses() -> None:
    other = TARGETS.roll(1)
    shares = 0.3 * F.one_hot(TARGETS, 4) + 0.7 * F.one_hot(other, 4)

    mixed = focal_loss(LOGITS, shares, gamma=2.0, weights=WEIGHTS)

    one, two = (focal_loss(LOGITS, t, gamma=2.0, weights=WEIGHTS) for t in (TARGETS, other))
    torch.testing.assert_close(mixed, 0.3 * one + 0.7 * two)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_focal_loss__slopes_are_finite_for_certain_answers(gamma: float, logit: float) -> None:
    logits = torch.tensor([[logit, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0]), gamma=gamma, weights=None)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert slope.isfinite().all()


LABELS = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).repeat(3, 1)[:7]


def test_binary_cross_entropy__is_the_mean_over_images_and_classes() -> None:
    found = binary_cross_entropy(LOGITS, SHARES, label_smoothing=0.0, positive_weights=None)

    probs = LOGITS.double().sigmoid()
    losses = -(SHARES * probs.log() + (1 - SHARES) * (1 - probs).log())
    torch.testing.assert_close(found.double(), losses.mean())


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_binary_cross_entropy__smoothing_draws_towards_one_half(
    weights: torch.Tensor | None,
) -> None:
    found = binary_cross_entropy(LOGITS, LABELS, label_smoothing=0.2, positive_weights=weights)

    wanted = torch.where(LABELS == 1, 0.9, 0.1)
    weighted = 1.0 if weights is None else weights
    losses = -(weighted * wanted * F.logsigmoid(LOGITS) + (1 - wanted) * F.logsigmoid(-LOGITS))
    torch.testing.assert_close(found, losses.mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_binary_focal_loss__is_torchvisions(gamma: float) -> None:
    found = binary_focal_loss(LOGITS, LABELS, gamma=gamma, positive_weights=None)
    expected = sigmoid_focal_loss(LOGITS, LABELS, alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("targets", [LABELS, SHARES], ids=["certain", "mixed"])
def test_binary_focal_loss__gamma_zero_is_binary_cross_entropy(
    targets: torch.Tensor, weights: torch.Tensor | None
) -> None:
    torch.testing.assert_close(
        binary_focal_loss(LOGITS, targets, gamma=0.0, positive_weights=weights),
        binary_cross_entropy(LOGITS, targets, label_smoothing=0.0, positive_weights=weights),
    )


def test_binary_focal_loss__of_mixed_labels_is_the_mixture() -> None:
    def of(targets: torch.Tensor) -> torch.Tensor:
        return binary_focal_loss(LOGITS, targets, gamma=2.0, positive_weights=WEIGHTS)

    mixed = of(0.3 * LABELS + 0.7 * LABELS.roll(1, 0))
    torch.testing.assert_close(mixed, 0.3 * of(LABELS) + 0.7 * of(LABELS.roll(1, 0)))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("value", [-200.0, 0.0, 200.0])
def test_binary_focal_loss__has_a_finite_slope_everywhere(gamma: float, value: float) -> None:
    logits = torch.full((1, 2), value, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0]])
    loss = binary_focal_loss(logits, targets, gamma=gamma, positive_weights=None)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@given(rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=30))
def test_balanced_positive_weights__having_a_class_counts_as_much(rows: list[list[bool]]) -> None:
    labels = np.array(rows)

    weights = balanced_positive_weights(labels)

    for column, weight in zip(labels.T, weights, strict=True):
        if 0 < column.sum() < len(column):
            assert weight * column.sum() == pytest.approx((~column).sum())
        else:
            assert weight == 1
