import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional as F
from torchvision.transforms import v2
from toy import image_batch, tiny_model

from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.class_losses import cross_entropy, focal_loss
from tlcli.engine.classification import ClassificationTask, outputs_of
from tlcli.engine.loop import evaluate
from tlcli.engine.mixing import MixedBatch, Mixture
from tlcli.engine.runtime import Runtime
from tlcli.models.staged import StagedModel

PREPROCESSING = Preprocessing(
    input_size=(12, 12),
    resize_size=(12, 12),
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)


def task_for(
    model: StagedModel, *, amp_dtype: torch.dtype | None = None, **loss: Any
) -> ClassificationTask:
    runtime = Runtime(device=torch.device("cpu"), amp_dtype=amp_dtype, channels_last=False, seed=0)
    return ClassificationTask(model, preprocessing=PREPROCESSING, runtime=runtime, **loss)


def logits_by_torchvision(model: StagedModel, images: torch.Tensor) -> torch.Tensor:
    prepare = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
    )
    with torch.no_grad():
        logits: torch.Tensor = model(prepare(images))
    return logits


def test_logits__are_of_normalised_images() -> None:
    model = tiny_model().eval()
    images = image_batch(range(5)).images

    logits = task_for(model).logits(images)

    torch.testing.assert_close(logits, logits_by_torchvision(model, images))


def test_logits__of_mixed_precision_are_float32() -> None:
    model = tiny_model().eval()
    images = image_batch(range(5)).images

    logits = task_for(model, amp_dtype=torch.bfloat16).logits(images)

    assert logits.dtype is torch.float32
    expected = logits_by_torchvision(model, images)
    assert not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_losses__are_smoothed_cross_entropy(label_smoothing: float) -> None:
    model = tiny_model().eval()
    batch = image_batch(range(5))
    log_probs = logits_by_torchvision(model, batch.images).log_softmax(dim=1)
    right = F.one_hot(batch.targets, 3)
    wanted = (1 - label_smoothing) * right + label_smoothing / 3  # Szegedy et al. 2016

    losses = task_for(model, label_smoothing=label_smoothing).losses(batch)

    assert list(losses) == ["loss_cls"]
    torch.testing.assert_close(losses["loss_cls"], -(wanted * log_probs).sum(dim=1).mean())


@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.5, 1.0])], ids=["plain", "rare"])
@pytest.mark.parametrize(
    "mixture", [None, Mixture(share=0.3), Mixture(share=0.5, box=(0, 0, 6, 12))]
)
def test_losses__of_mixed_and_weighted_images(
    loss: Any, weights: torch.Tensor | None, mixture: Mixture | None
) -> None:
    model = tiny_model().eval()
    batch = image_batch(range(5))
    task = task_for(model, loss=loss, focal_gamma=1.5, class_weights=weights)
    images, targets = batch.images, batch.targets
    before = images.clone()
    mixed: Any = batch if mixture is None else MixedBatch(*batch, mixture)

    found = task.losses(mixed)["loss_cls"]

    own = F.one_hot(targets, 3).float()
    prepare = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
    )
    inputs = prepare(images)
    if mixture is not None:
        own = mixture.share * own + (1 - mixture.share) * own.roll(1, 0)
        other, inputs = inputs.roll(1, 0), inputs.clone()
        if mixture.box is None:
            inputs = mixture.share * inputs + (1 - mixture.share) * other
        else:
            inputs[..., :6] = other[..., :6]
    logits = model(inputs)
    expected = (
        focal_loss(logits, own, gamma=1.5, weights=weights)
        if loss == "focal"
        else cross_entropy(logits, own, label_smoothing=0.0, weights=weights)
    )
    torch.testing.assert_close(found, expected)
    assert torch.equal(images, before)


def test_compute__is_cross_entropy_whatever_is_trained_on() -> None:
    model = tiny_model().eval()
    batches = [image_batch(range(5))]
    plain, other = (
        evaluate(model, batches, evaluator=task.evaluator()).compute()
        for task in (
            task_for(model),
            task_for(model, loss="focal", class_weights=torch.tensor([9.0, 1.0, 0.1])),
        )
    )
    assert plain == other


def test_predictions__are_row_by_row_whatever_the_order_of_batches() -> None:
    model = tiny_model().eval()
    task = task_for(model)
    in_order = image_batch(range(7))
    expected = logits_by_torchvision(model, in_order.images).log_softmax(dim=1)
    parts = ([6, 0], [3, 2, 5], [1, 4])

    for order in itertools.permutations(parts):
        evaluator = task.evaluator()
        evaluate(model, map(image_batch, order), evaluator=evaluator)
        log_probs, targets = evaluator.predictions()

        np.testing.assert_allclose(log_probs, expected.double().numpy(), atol=1e-6)
        assert targets.tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert (log_probs.dtype, targets.dtype) == (np.float64, np.int64)


@pytest.mark.parametrize("rows", [[0, 1, 1], [0, 2], [1, 2]], ids=str)
def test_predictions__rows_missing_or_repeated_are_a_fault(rows: list[int]) -> None:
    evaluator = task_for(tiny_model().eval()).evaluator()
    with torch.inference_mode():
        evaluator.update(image_batch(rows))

    with pytest.raises(AssertionError, match="rows missing or repeated"):
        evaluator.predictions()


def test_compute__counts_images_over_an_odd_last_batch() -> None:
    model = tiny_model().eval()
    everything = image_batch(range(11))
    log_probs = logits_by_torchvision(model, everything.images).log_softmax(dim=1)
    batches = [image_batch(rows) for rows in (range(4), range(4, 8), range(8, 10), [10])]

    found = evaluate(model, batches, evaluator=task_for(model).evaluator()).compute()

    predicted, targets = log_probs.argmax(dim=1), everything.targets
    assert 0 < metrics.accuracy_score(targets, predicted) < 1
    assert found == {
        "loss": pytest.approx(F.nll_loss(log_probs, targets).item(), rel=1e-6),
        "top1": metrics.accuracy_score(targets, predicted),
        "top5": 1.0,
        "macro_f1": pytest.approx(metrics.f1_score(targets, predicted, average="macro")),
    }


def test_outputs_of__matches_by_name() -> None:
    assert outputs_of(["cat", "ant", "bee"], wanted=["ant", "cat"]) == [1, 0]


def test_outputs_of__unknown_class() -> None:
    with pytest.raises(KeyError, match="dog"):
        outputs_of(["cat", "ant"], wanted=["cat", "dog"])
