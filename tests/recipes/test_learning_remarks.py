"""Losses that show overfitting or underfitting are told, others are not."""

import math

import pytest

from tlcli.recipes.learning_remarks import learning_remark
from tlcli.results.records import Row


def rows_of(train: list[float], val: list[float]) -> list[Row]:
    pairs = enumerate(zip(train, val, strict=True), start=1)
    return [{"epoch": epoch, "train/loss": a, "val/loss": b} for epoch, (a, b) in pairs]


def remark_of(
    train: list[float],
    val: list[float],
    *,
    num_classes: int = 10,
    is_plain_loss: bool = True,
    is_partly_frozen: bool = True,
) -> str | None:
    return learning_remark(
        rows_of(train, val),
        num_classes=num_classes,
        is_plain_loss=is_plain_loss,
        is_partly_frozen=is_partly_frozen,
    )


def test_remark__val_loss_rises_while_train_loss_falls() -> None:
    remark = remark_of([1.0, 0.5, 0.2, 0.1], [1.0, 0.8, 0.9, 1.0])

    assert remark is not None
    assert remark.startswith("Overfitting: val loss rose from 0.8 (epoch 2) to 1 while train")


def test_remark__lowest_loss_of_zero() -> None:
    remark = remark_of([1.0, 0.5, 0.2, 0.1], [0.5, 0.0, 1.0, 2.0])

    assert remark is not None
    assert "rose from 0 (epoch 2) to 2" in remark


def test_remark__rows_without_loss_are_left_out() -> None:
    rows = rows_of([1.0, 0.5, 0.2, 0.1], [1.0, 0.8, 0.9, 1.0])
    rows[0]["val/loss"] = None

    remark = learning_remark(rows, num_classes=10, is_plain_loss=True, is_partly_frozen=True)

    assert remark is not None
    assert "(epoch 2)" in remark


@pytest.mark.parametrize(
    ("train", "val"),
    [
        pytest.param([1.0, 0.5, 0.2], [1.0, 0.8, 0.9], id="one epoch is no trend"),
        pytest.param([1.0, 0.5, 0.2, 0.1], [1.0, 0.8, 0.8, 0.87], id="hardly above"),
        pytest.param([1.0, 0.5, 0.6, 0.7], [1.0, 0.8, 0.9, 1.0], id="train loss rises too"),
        pytest.param([1.0, 0.5, 0.2, 0.1], [1.0, 0.8, 0.7, 0.6], id="still better"),
        pytest.param([1e-2, 1e-3, 1e-4, 1e-5], [2e-5, 1e-5, 1e-5, 3e-5], id="nearly nought"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_remark__none_without_a_trend(train: list[float], val: list[float]) -> None:
    assert remark_of(train, val) is None


def test_remark__losses_near_guessing() -> None:
    losses = [2.3, 2.2, 2.1]

    frozen, whole = (remark_of(losses, losses, is_partly_frozen=more) for more in (True, False))

    assert frozen is not None
    assert whole is not None
    assert frozen.startswith(
        f"Underfitting: the train loss is 2.10 in the end, where guessing costs {math.log(10):.2f}."
    )
    assert "train more of the network" in frozen
    assert "train more of the network" not in whole


@pytest.mark.parametrize(
    ("train", "val", "num_classes", "is_plain_loss"),
    [
        pytest.param([2.2, 1.1], [2.2, 1.1], 10, True, id="below half of guessing"),
        pytest.param([2.2, 2.0], [2.2, 2.3], 10, True, id="val is worse: no case of too little"),
        pytest.param([2.2, 2.1], [2.2, 2.1], 10, False, id="another loss"),
        pytest.param([0.7, 0.7], [0.7, 0.7], 0, True, id="several classes at once"),
    ],
)
def test_remark__none_where_it_cannot_be_told(
    train: list[float], val: list[float], num_classes: int, is_plain_loss: bool
) -> None:
    assert remark_of(train, val, num_classes=num_classes, is_plain_loss=is_plain_loss) is None
