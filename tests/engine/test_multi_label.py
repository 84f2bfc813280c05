"""The task of images with any number of classes, beside plain PyTorch."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms import v2
from toy import image_batch, tiny_model

from tlcli.data.loaders import ImageBatch
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.loop import evaluate, train_one_epoch
from tlcli.engine.mixing import MixedBatch, Mixture
from tlcli.engine.multi_label import MultiLabelTask
from tlcli.engine.optim import (
    build_optimizer,
    build_scheduler,
    learning_rate_factor,
    param_groups,
    stage_learning_rates,
)
from tlcli.engine.runtime import Runtime
from tlcli.engine.training_state import TrainingState
from tlcli.models.staged import StagedModel
from tlcli.models.unfreezing import Phase

PREPROCESSING = Preprocessing(
    input_size=(12, 12),
    resize_size=(12, 12),
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)
RUNTIME = Runtime(device=torch.device("cpu"), amp_dtype=None, channels_last=False, seed=0)
PREPARE = v2.Compose(
    [v2.ToDtype(torch.float32, scale=True), v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
)
STAGES = ("stem", "blocks.0", "blocks.1", "head")
WEIGHTS = torch.tensor([3.0, 0.5, 1.0])


def task_for(model: StagedModel, **loss: Any) -> MultiLabelTask:
    return MultiLabelTask(model, preprocessing=PREPROCESSING, runtime=RUNTIME, **loss)


def label_batch(indices: Any) -> ImageBatch:
    """Make a batch whose labels follow from the row numbers: 0 has none, 7 all."""
    batch = image_batch(list(indices))
    rows = [[bool(index >> bit & 1) for bit in range(3)] for index in indices]
    return batch._replace(targets=torch.tensor(rows))


def logits_by_torchvision(model: StagedModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(PREPARE(images))
    return logits


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses__are_binary_cross_entropy(weights: Tensor | None, smoothing: float) -> None:
    model = tiny_model().eval()
    batch = label_batch(range(6))
    task = task_for(model, positive_weights=weights, label_smoothing=smoothing)

    losses = task.losses(batch)

    shares = batch.targets.float() * (1 - smoothing) + smoothing / 2
    logits = logits_by_torchvision(model, batch.images)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, shares)
    assert list(losses) == ["loss_cls"]
    torch.testing.assert_close(losses["loss_cls"], expected)


def test_losses__focal_is_torchvisions() -> None:
    model = tiny_model().eval()
    batch = label_batch(range(6))
    found = task_for(model, loss="focal", focal_gamma=1.5).losses(batch)["loss_cls"]
    logits = logits_by_torchvision(model, batch.images)
    expected = sigmoid_focal_loss(
        logits, batch.targets.float(), alpha=-1, gamma=1.5, reduction="mean"
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mixture", [Mixture(share=0.3), Mixture(share=0.5, box=(0, 0, 6, 12))])
def test_losses__of_mixed_images_are_on_mixed_labels(mixture: Mixture) -> None:
    model = tiny_model().eval()
    batch = label_batch(range(6))

    found = task_for(model).losses(MixedBatch(*batch, mixture))["loss_cls"]

    inputs, own = PREPARE(batch.images), batch.targets.float()
    other = inputs.roll(1, 0)
    shares = mixture.share * own + (1 - mixture.share) * own.roll(1, 0)
    if mixture.box is None:
        mixed = mixture.share * inputs + (1 - mixture.share) * other
    else:
        mixed = torch.cat([other[..., :6], inputs[..., 6:]], dim=-1)
    expected = F.binary_cross_entropy_with_logits(model(mixed), shares)
    torch.testing.assert_close(found, expected)


def test_predictions__are_row_by_row_whatever_the_order_of_batches() -> None:
    model = tiny_model().eval()
    task = task_for(model)
    in_order = label_batch(range(7))
    expected = logits_by_torchvision(model, in_order.images)

    for order in itertools.permutations(([6, 0], [3, 2, 5], [1, 4])):
        evaluator = task.evaluator()
        evaluate(model, map(label_batch, order), evaluator=evaluator)
        logits, labels = evaluator.predictions()

        np.testing.assert_allclose(logits, expected.double().numpy(), atol=1e-6)
        assert np.array_equal(labels, in_order.targets.numpy())
        assert (logits.dtype, labels.dtype) == (np.float64, np.bool_)


def test_compute__is_binary_cross_entropy_whatever_is_trained_on() -> None:
    model = tiny_model().eval()
    batches = [label_batch(range(4)), label_batch([4])]
    plain, other = (
        evaluate(model, batches, evaluator=task.evaluator()).compute()
        for task in (task_for(model), task_for(model, loss="focal", positive_weights=WEIGHTS))
    )
    everything = label_batch(range(5))
    logits = logits_by_torchvision(model, everything.images)
    expected = F.binary_cross_entropy_with_logits(logits, everything.targets.float()).item()
    assert plain == other
    assert list(plain) == ["loss", "map", "micro_f1", "macro_f1"]
    assert plain["loss"] == pytest.approx(expected, rel=1e-6)


def test_train_one_epoch__every_step_has_the_loss_of_a_plain_loop() -> None:
    model = tiny_model(with_batch_norm=False, seed=1)  # a bias before a norm moves by noise
    plain = copy.deepcopy(model.network)
    steps = [[label_batch(range(4 * step, 4 * step + 4))] for step in range(6)]
    rates = stage_learning_rates(STAGES, lr=0.01, backbone_lr=0.01, layer_decay=1.0)
    groups = param_groups(
        model, learning_rates=rates, weight_decay=0.0, no_weight_decay=frozenset()
    )
    optimizer = build_optimizer(model.network, groups, name="adamw")
    factor = learning_rate_factor("constant", total_steps=6, warmup_steps=0)
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, factor),
        phases=(Phase(start=0, trained=STAGES),),
        scaler=RUNTIME.grad_scaler(),
    )
    state.enter_phase()

    train_one_epoch(
        task_for(model, positive_weights=WEIGHTS),
        state,
        steps=steps,
        runtime=RUNTIME,
        clip_grad=0.0,
        check_stop=lambda: None,
    )

    losses = []
    own = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.0)
    criterion = torch.nn.BCEWithLogitsLoss(pos_weight=WEIGHTS)
    plain.train()
    for (batch,) in steps:
        loss = criterion(plain(PREPARE(batch.images)), batch.targets.float())
        own.zero_grad()
        loss.backward()
        own.step()
        losses.append(loss.detach())
    found = [float(total / count) for total, count in state.loss_sums]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    assert len(set(found)) == 6
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.network.get_parameter(name), parameter)
