from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from toy import image_batch, tiny_model

from tlcli.data.loaders import ImageBatch
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.classification import ClassificationTask
from tlcli.engine.loop import NonFiniteLoss
from tlcli.engine.lr_range import MAX_STEPS, Floats, RangeCurve, rates_around, try_rates
from tlcli.engine.runtime import Runtime
from tlcli.engine.training_state import TrainingState
from tlcli.models.staged import StagedModel
from tlcli.models.unfreezing import Phase

RATES = rates_around(1e-3)
RUNTIME = Runtime(device=torch.device("cpu"), amp_dtype=None, channels_last=False, seed=0)
PIXELS = Preprocessing(
    input_size=(12, 12),
    resize_size=(12, 12),
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
)


def valley(*, bottom: float, noise: float = 0.0, seed: int = 0) -> Floats:
    """Fall from 2 around a rate of 1e-3, rise without end from 1e-1 on."""
    logs = np.log10(RATES)
    fall = (2 - bottom) / (1 + np.exp(-4 * (logs + 3)))
    rise = np.exp(5 * (logs + 1))
    return 2 - fall + rise + noise * np.random.default_rng(seed).standard_normal(len(RATES))


def test_rates_around__a_hundred_steps_over_six_decades() -> None:
    assert len(RATES) == MAX_STEPS == 100
    assert (RATES[0], RATES[-1]) == (pytest.approx(1e-6), pytest.approx(1.0))
    assert np.ptp(RATES[1:] / RATES[:-1]) == pytest.approx(0, abs=1e-9)


def test_smoothed__is_a_gaussian_mean_of_neighbours() -> None:
    losses = np.random.default_rng(1).uniform(1, 2, 30)
    curve = RangeCurve(rates=RATES[:30], losses=losses)
    for step in range(30):
        weights = [np.exp(-((other - step) ** 2) / 18) for other in range(30)]
        assert curve.smoothed[step] == pytest.approx(np.average(losses, weights=weights))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_steepest__is_where_the_loss_falls_fastest(noise: float) -> None:
    for seed in range(5):
        found = RangeCurve(
            rates=RATES, losses=valley(bottom=0.5, noise=noise, seed=seed)
        ).steepest()
        assert found is not None
        assert 5e-4 < found < 2e-3
        assert found == float(f"{found:.2g}")


def test_steepest__fall_after_the_loss_went_up_does_not_count() -> None:
    losses = valley(bottom=1.5)
    losses[80:] = np.linspace(5, 0.1, 20)  # much steeper, and lower

    found = RangeCurve(rates=RATES, losses=losses).steepest()

    assert found == RangeCurve(rates=RATES[:80], losses=losses[:80]).steepest()
    assert found is not None
    assert 5e-4 < found < 2e-3


@pytest.mark.parametrize(
    "losses",
    [
        np.full(100, 2.0),
        np.linspace(2, 3, 100),
        2 + 0.1 * np.random.default_rng(3).standard_normal(100),
        np.linspace(2, 0.1, 9),
    ],
    ids=["flat", "rising", "noise", "too few"],
)
def test_steepest__none_where_nothing_falls(losses: Floats) -> None:
    assert RangeCurve(rates=RATES[: len(losses)], losses=losses).steepest() is None


def steps_of(epoch: int, done: int) -> Iterator[list[ImageBatch]]:
    rows = np.random.default_rng(epoch).permutation(12).reshape(3, 4).tolist()
    yield from [[image_batch(part)] for part in rows][done:]


def tried(
    rates: Floats, *, factor: float = 1.0, model: StagedModel | None = None
) -> tuple[RangeCurve, TrainingState]:
    model = model or tiny_model(with_batch_norm=False)
    optimizer = SGD(model.network.parameters(), lr=1.0)
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda s: factor * rates[min(s, len(rates) - 1)]),
        phases=[Phase(start=0, trained=("blocks.1", "head"))],
    )
    task = ClassificationTask(model, preprocessing=PIXELS, runtime=RUNTIME)
    curve = try_rates(
        task,
        state,
        rates=rates,
        train_steps=steps_of,
        runtime=RUNTIME,
        clip_grad=0.0,
        check_stop=lambda: None,
    )
    return curve, state


def test_try_rates__is_a_plain_loop_with_growing_rates_over_epochs() -> None:
    rates = np.geomspace(1e-3, 1e-1, 8)
    curve, _ = tried(rates)

    network = tiny_model(with_batch_norm=False).network
    trained = [
        p for name, p in network.named_parameters() if not name.startswith(("stem", "blocks.0"))
    ]
    losses = []
    batches = [batch for epoch in range(3) for (batch,) in steps_of(epoch, 0)]
    for rate, batch in zip(rates, batches, strict=False):
        loss = F.cross_entropy(network(batch.images / 255), batch.targets)
        slopes = torch.autograd.grad(loss, trained)
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, slope in zip(trained, slopes, strict=True):
                parameter -= rate * slope
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-5)
    np.testing.assert_array_equal(curve.rates, rates)


def test_try_rates__stages_of_later_phases_stay_as_they_are() -> None:
    _, state = tried(np.full(5, 0.1))
    before = tiny_model(with_batch_norm=False).network.state_dict()
    moved = {
        name
        for name, tensor in state.model.network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved
    assert not [name for name in moved if name.startswith(("stem", "blocks.0"))]


def test_try_rates__stops_when_the_loss_diverges() -> None:
    curve, state = tried(np.geomspace(1e-3, 1e6, 60))

    assert 10 < len(curve.losses) == state.step < 60
    assert len(curve.rates) == len(curve.losses)
    assert np.isfinite(curve.losses).all()
    assert curve.losses[-1] > 4 * curve.losses[:-1].min()
    assert not (curve.losses[:-1] > 4 * curve.losses[0]).any()


def test_try_rates__infinite_losses_are_the_end_and_no_error() -> None:
    curve, _ = tried(np.geomspace(1e-3, 1.0, 20), factor=1e30)

    assert 0 < len(curve.losses) < 20
    assert np.isfinite(curve.losses).all()


def test_try_rates__loss_of_the_first_step_that_is_not_finite_is_no_answer() -> None:
    model = tiny_model(with_batch_norm=False)
    next(model.network.parameters()).data.fill_(torch.nan)

    with pytest.raises(NonFiniteLoss) as caught:
        tried(RATES, model=model)
    assert (caught.value.epoch, caught.value.step) == (1, 1)
