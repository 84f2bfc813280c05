"""The loop against plain PyTorch loops written here, on the same batches."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode
from toy import image_batch, tiny_model

from tlcli.data.loaders import ImageBatch
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.classification import ClassificationTask
from tlcli.engine.ema import averaged_copy
from tlcli.engine.interrupts import StopRequested
from tlcli.engine.loop import FINITE_CHECK_STEPS, NonFiniteLoss, evaluate, fit, train_one_epoch
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
from tlcli.results.records import EpochReport

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
LR = 1e-2
STAGES = ("stem", "blocks.0", "blocks.1", "head")
Steps = Sequence[Sequence[ImageBatch]]

RUNTIME = Runtime(device=torch.device("cpu"), amp_dtype=None, channels_last=False, seed=0)
PREPROCESSING = Preprocessing(
    input_size=(12, 12),
    resize_size=(12, 12),
    crop_mode="center",
    interpolation="bilinear",
    mean=MEAN,
    std=STD,
)


def task_for(model: nn.Module, *, label_smoothing: float = 0.0) -> ClassificationTask:
    return ClassificationTask(
        model, preprocessing=PREPROCESSING, runtime=RUNTIME, label_smoothing=label_smoothing
    )


def state_for(
    model: StagedModel,
    *,
    total_steps: int,
    opt: str = "adamw",
    phases: Sequence[Phase] = (Phase(start=0, trained=STAGES),),
    lr: float = LR,
) -> TrainingState:
    groups = param_groups(
        model,
        learning_rates=stage_learning_rates(STAGES, lr=lr, backbone_lr=lr / 2, layer_decay=1.0),
        weight_decay=0.05,
        no_weight_decay=frozenset(),
    )
    optimizer = build_optimizer(model.network, groups, name=opt)  # type: ignore[arg-type]
    factor = learning_rate_factor("cosine", total_steps=total_steps, warmup_steps=2)
    return TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, factor),
        phases=phases,
    )


def run_fit(
    state: TrainingState,
    epochs: int,
    steps: Callable[[int, int], Iterable[Sequence[ImageBatch]]],
    **others: Any,
) -> list[EpochReport]:
    chosen = {
        "task": task_for(state.model),
        "validate": lambda: {"loss": 0.0},
        "clip_grad": 0.0,
        "check_stop": lambda: None,
        **others,
    }
    task = chosen.pop("task")
    return list(fit(task, state, epochs=epochs, train_steps=steps, runtime=RUNTIME, **chosen))


def from_lists(epochs: Sequence[Steps]) -> Callable[[int, int], Iterable[Sequence[ImageBatch]]]:
    return lambda epoch, done: epochs[epoch][done:]


def one_epoch(
    model: StagedModel, steps: Steps, *, clip_grad: float = 0.0, **of_state: Any
) -> float:
    state = state_for(model, total_steps=len(steps) + 2, **of_state)
    loss, _ = train_one_epoch(
        task_for(model),
        state,
        steps=steps,
        runtime=RUNTIME,
        clip_grad=clip_grad,
        check_stop=lambda: None,
    )
    return loss


def assert_same_weights(first: nn.Module, second: nn.Module, **tolerance: float) -> None:
    expected = dict(second.state_dict())
    for name, tensor in first.state_dict().items():
        if tolerance:
            torch.testing.assert_close(tensor, expected[name], **tolerance)
        else:
            assert torch.equal(tensor, expected[name]), name


def plain_inputs(batch: ImageBatch) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (batch.images.float() / 255 - mean) / std


def plain_loop(
    network: nn.Module,
    epochs: Sequence[Steps],
    *,
    label_smoothing: float,
    clip_grad: float,
    fused: bool,
) -> list[float]:
    """The loop of any tutorial: AdamW, cosine after two warm-up steps, one batch per step."""
    exempt = [p for p in network.parameters() if p.ndim <= 1]
    matrices = [p for p in network.parameters() if p.ndim > 1]
    head = list(network.fc.parameters())
    entries = [
        {
            "params": [p for p in chosen if any(p is h for h in head) == is_head],
            "weight_decay": decay,
            "lr": LR if is_head else LR / 2,
        }
        for chosen, decay in ((matrices, 0.05), (exempt, 0.0))
        for is_head in (True, False)
    ]
    optimizer = AdamW(entries, fused=fused)
    total = sum(len(steps) for steps in epochs)
    scheduler = LambdaLR(
        optimizer,
        lambda t: (t + 1) / 3 if t < 2 else 0.5 * (1 + np.cos(np.pi * (t - 2) / (total - 2))),
    )
    losses = []
    for steps in epochs:
        network.train()
        loss_sum = count = 0.0
        for (batch,) in steps:
            optimizer.zero_grad()
            logits = network(plain_inputs(batch))
            loss = F.cross_entropy(logits, batch.targets, label_smoothing=label_smoothing)
            loss.backward()
            if clip_grad:
                nn.utils.clip_grad_norm_(network.parameters(), clip_grad)
            optimizer.step()
            scheduler.step()
            loss_sum += loss.item() * len(batch.targets)
            count += len(batch.targets)
        losses.append(loss_sum / count)
    return losses


def batches_of(num_images: int, *, batch_size: int, start: int = 0) -> list[ImageBatch]:
    rows = range(start, start + num_images)
    return [image_batch(rows[i : i + batch_size]) for i in range(0, num_images, batch_size)]


@pytest.mark.parametrize(
    ("label_smoothing", "clip_grad"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.05)], ids=str
)
def test_fit__equals_a_plain_loop(label_smoothing: float, clip_grad: float) -> None:
    epochs = [[[b] for b in batches_of(22, batch_size=8, start=100 * e)] for e in range(3)]
    model = tiny_model()
    twin = copy.deepcopy(model.network)

    reports = run_fit(
        state_for(model, total_steps=9),
        3,
        from_lists(epochs),
        task=task_for(model, label_smoothing=label_smoothing),
        clip_grad=clip_grad,
    )

    expected = plain_loop(
        twin, epochs, label_smoothing=label_smoothing, clip_grad=clip_grad, fused=True
    )
    assert [report.train_loss for report in reports] == pytest.approx(expected, rel=1e-6)
    assert_same_weights(model.network, twin, rtol=1e-5, atol=1e-7)
    assert not torch.equal(twin.fc.weight, tiny_model().network.fc.weight)


def test_fit__equals_a_plain_loop_with_the_reference_kernel() -> None:
    """Without BatchNorm, behind which a bias has a gradient of rounding errors alone."""
    epochs = [[[b] for b in batches_of(22, batch_size=8, start=100 * e)] for e in range(3)]
    model = tiny_model(with_batch_norm=False)
    twin = copy.deepcopy(model.network)

    reports = run_fit(state_for(model, total_steps=9), 3, from_lists(epochs))

    losses = plain_loop(twin, epochs, label_smoothing=0.0, clip_grad=0.0, fused=False)
    assert [report.train_loss for report in reports] == pytest.approx(losses, rel=1e-5)
    assert_same_weights(model.network, twin, rtol=1e-5, atol=1e-6)


def test_fit__clipping_and_smoothing_change_the_result() -> None:
    """Else the comparison above would hold for a loop that ignores both."""
    steps = [[b] for b in batches_of(16, batch_size=8)]
    plain, clipped = tiny_model(), tiny_model()

    one_epoch(plain, steps, opt="sgd")
    one_epoch(clipped, steps, opt="sgd", clip_grad=0.01)

    assert not torch.equal(plain.network.fc.weight, clipped.network.fc.weight)


@pytest.mark.parametrize("num_images", [16, 21, 20, 17], ids=lambda n: f"{n}_images")
def test_train_one_epoch__two_times_four_equals_eight(num_images: int) -> None:
    """The short last step too: 5 = 4 + 1 images count alike, not by halves."""
    small = batches_of(num_images, batch_size=4)
    accumulated, whole = tiny_model(with_batch_norm=False), tiny_model(with_batch_norm=False)

    loss = one_epoch(accumulated, [small[i : i + 2] for i in range(0, len(small), 2)])
    expected = one_epoch(whole, [[batch] for batch in batches_of(num_images, batch_size=8)])

    assert loss == pytest.approx(expected, rel=1e-6)
    assert_same_weights(accumulated, whole, rtol=1e-4, atol=1e-6)


def test_train_one_epoch__clips_the_norm_of_all_gradients_together() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.network)
    optimizer = SGD(model.network.parameters(), lr=1.0)
    state = dataclasses.replace(
        state_for(model, total_steps=1),
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda _: 1.0),
    )

    train_one_epoch(
        task_for(model),
        state,
        steps=[batches_of(8, batch_size=4)],
        runtime=RUNTIME,
        clip_grad=0.01,
        check_stop=lambda: None,
    )

    pairs = zip(model.network.parameters(), before.parameters(), strict=True)
    moved = torch.cat([(a - b).detach().flatten() for a, b in pairs])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_train_one_epoch__mean_loss_counts_images_not_batches() -> None:
    model = tiny_model(with_batch_norm=False)
    batches = batches_of(9, batch_size=8)  # eight images, then one
    still = state_for(model, total_steps=4, lr=0.0)
    with torch.no_grad():
        each = [F.cross_entropy(model(plain_inputs(b)), b.targets).item() for b in batches]

    loss, num_images = train_one_epoch(
        task_for(model),
        still,
        steps=[[b] for b in batches],
        runtime=RUNTIME,
        clip_grad=0.0,
        check_stop=lambda: None,
    )

    assert num_images == 9
    assert loss == pytest.approx((8 * each[0] + each[1]) / 9, rel=1e-6)
    assert loss != pytest.approx(sum(each) / 2, rel=1e-3)


class PoisonedTask:
    """Cross-entropy that becomes NaN or infinite where image `row` is in the batch."""

    def __init__(self, model: nn.Module, *, row: int, value: float) -> None:
        self._task, self._row, self._value = task_for(model), row, value

    def losses(self, batch: ImageBatch) -> Mapping[str, Tensor]:
        terms = self._task.losses(batch)
        factor = self._value if self._row in batch.indices else 1.0
        return {"loss_cls": terms["loss_cls"] * factor}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fit__non_finite_loss_names_epoch_step_and_rows(value: float) -> None:
    model = tiny_model()
    state = state_for(model, total_steps=99)
    grouped = [batches_of(8, batch_size=4, start=8 * i) for i in range(4)]

    with pytest.raises(NonFiniteLoss, match=r"^loss not finite in epoch 2, step 3$") as caught:
        run_fit(
            state,
            2,
            from_lists(
                [grouped, [batches_of(8, batch_size=4, start=100 + 8 * i) for i in range(4)]]
            ),
            task=PoisonedTask(model, row=121, value=value),
        )

    assert (caught.value.epoch, caught.value.step) == (2, 3)
    assert caught.value.indices == tuple(range(116, 124))


def test_fit__non_finite_loss_is_found_before_the_epoch_is_reported() -> None:
    model = tiny_model()
    last = batches_of(4, batch_size=4, start=40)
    steps = [batches_of(4, batch_size=4), last]
    validated: list[int] = []

    with pytest.raises(NonFiniteLoss):
        run_fit(
            state_for(model, total_steps=9),
            1,
            from_lists([steps]),
            task=PoisonedTask(model, row=43, value=float("nan")),
            validate=lambda: validated.append(1) or {},
        )
    assert validated == []


def test_fit__non_finite_loss_stops_a_long_epoch_early() -> None:
    model = tiny_model()
    asked: list[int] = []

    def many(_epoch: int, _done: int) -> Iterator[Sequence[ImageBatch]]:
        for _ in range(4 * FINITE_CHECK_STEPS):
            asked.append(1)
            yield [image_batch([len(asked), len(asked) + 1])]

    with pytest.raises(NonFiniteLoss) as caught:
        run_fit(
            state_for(model, total_steps=999),
            1,
            many,
            task=PoisonedTask(model, row=6, value=float("nan")),
        )
    assert caught.value.step == 5
    assert len(asked) == FINITE_CHECK_STEPS


def test_fit__never_saves_a_state_that_is_not_finite_when_stopped() -> None:
    model = tiny_model()

    def stop() -> None:
        raise StopRequested

    with pytest.raises(NonFiniteLoss):
        run_fit(
            state_for(model, total_steps=9),
            1,
            from_lists([[batches_of(4, batch_size=4)] * 3]),
            task=PoisonedTask(model, row=2, value=float("nan")),
            check_stop=stop,
        )


class _ReadsCounted(TorchDispatchMode):
    """Counts what `.item()`, `float()`, `int()` and `if tensor` all end in."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_steps", [2, FINITE_CHECK_STEPS - 1])
def test_train_one_epoch__reads_the_device_once_per_epoch(
    num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(with_batch_norm=False)
    state = state_for(model, total_steps=num_steps, opt="sgd")  # AdamW reads its own CPU counters
    steps = [[image_batch([step, step + 1])] for step in range(num_steps)]
    lists: list[Tensor] = []
    to_list = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: lists.append(self) or to_list(self))

    with _ReadsCounted() as reads:
        train_one_epoch(
            task_for(model),
            state,
            steps=steps,
            runtime=RUNTIME,
            clip_grad=1.0,
            check_stop=lambda: None,
        )

    assert reads.count == 1  # the mean loss, at the end
    assert len(lists) == 1  # which losses are finite, at the end


def test_reads_counted__sees_every_way_to_read_a_number() -> None:
    number = torch.tensor(1.0)
    with _ReadsCounted() as reads:
        number.item()
        float(number)
        int(number)
        bool(number)
    assert reads.count == 4


def stop_after(num_steps: int) -> Callable[[], None]:
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == num_steps:
            raise StopRequested

    return check


@pytest.mark.parametrize("stopped_after", [1, 3, 4, 6, 8], ids=lambda n: f"step_{n}")
def test_fit__stopped_between_steps_goes_on_to_the_same_end(stopped_after: int) -> None:
    epochs = [[[b] for b in batches_of(14, batch_size=4, start=100 * e)] for e in range(2)]
    whole, parts = tiny_model(), tiny_model()
    phases = (Phase(start=0, trained=("head",)), Phase(start=1, trained=STAGES))
    expected = run_fit(state_for(whole, total_steps=8, phases=phases), 2, from_lists(epochs))
    state = state_for(parts, total_steps=8, phases=phases)

    with pytest.raises(StopRequested):
        run_fit(state, 2, from_lists(epochs), check_stop=stop_after(stopped_after))
    done = 4 * state.epoch + state.step
    reports = run_fit(state, 2, from_lists(epochs))

    assert done == stopped_after
    assert_same_weights(parts, whole)
    last = [(r.train_loss, r.lr, r.phase) for r in reports]
    assert last == [(r.train_loss, r.lr, r.phase) for r in expected][-len(last) :]


def test_fit__stopped_in_validation_repeats_the_validation_only() -> None:
    steps = [[b] for b in batches_of(8, batch_size=4)]
    model = tiny_model()
    state = state_for(model, total_steps=2)

    def stop() -> Mapping[str, float]:
        raise StopRequested

    with pytest.raises(StopRequested):
        run_fit(state, 1, from_lists([steps]), validate=stop)
    assert (state.epoch, state.step, len(state.loss_sums)) == (0, 2, 2)
    after_training = copy.deepcopy(model)
    (report,) = run_fit(state, 1, from_lists([steps]), validate=lambda: {"loss": 0.5})

    assert_same_weights(model, after_training)
    assert report.metrics == {"loss": 0.5}
    assert (state.epoch, state.step, state.loss_sums) == (1, 0, [])


def test_fit__reports_phase_and_rates_when_the_epoch_began() -> None:
    steps = [[b] for b in batches_of(8, batch_size=4)]
    model = tiny_model()
    phases = (Phase(start=0, trained=("head",)), Phase(start=1, trained=("blocks.1", "head")))

    first, second = run_fit(
        state_for(model, total_steps=4, phases=phases), 2, from_lists([steps] * 2)
    )

    assert (first.epoch, first.phase, second.epoch, second.phase) == (1, 0, 2, 1)
    assert first.lr == {"head": pytest.approx(LR / 3), "backbone": None}
    assert second.lr == {"head": pytest.approx(LR), "backbone": pytest.approx(LR / 2)}


def test_fit__opens_stages_between_epochs_and_freezes_the_rest() -> None:
    steps = [[b] for b in batches_of(8, batch_size=4)]
    model = tiny_model()
    phases = (Phase(start=0, trained=("head",)), Phase(start=1, trained=("blocks.1", "head")))
    state = state_for(model, total_steps=4, phases=phases)
    start = copy.deepcopy(model.network.state_dict())
    moved: list[set[str]] = []

    for _ in fit(
        task_for(model),
        state,
        epochs=2,
        train_steps=from_lists([steps] * 2),
        validate=lambda: {},
        runtime=RUNTIME,
        clip_grad=0.0,
        check_stop=lambda: None,
    ):
        now = model.network.state_dict()
        moved.append({name for name in now if not torch.equal(now[name], start[name])})

    opened = {"blocks.1.weight", "blocks.1.bias", "blocks.2.weight", "blocks.2.bias", "scale"}
    assert moved == [{"fc.weight", "fc.bias"}, {"fc.weight", "fc.bias"} | opened]


def test_fit__average_follows_every_step() -> None:
    steps = [[b] for b in batches_of(12, batch_size=4)]
    model = tiny_model()
    state = state_for(model, total_steps=3)
    state.ema = averaged_copy(model, decay=0.9)

    run_fit(state, 1, from_lists([steps]))

    assert state.ema.n_averaged.item() == 3
    assert state.judged is state.ema.module


class _RowsSeen:
    """An evaluator that keeps what it is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.rows: list[int] = []
        self.modes: set[tuple[bool, bool]] = set()

    def update(self, batch: ImageBatch) -> None:
        self.rows += batch.indices.tolist()
        self.modes.add((self.model.training, torch.is_inference_mode_enabled()))

    def compute(self) -> Mapping[str, float]:
        return {"num": float(len(self.rows))}


def test_evaluate__shows_all_batches_in_eval_mode_without_gradients() -> None:
    model = tiny_model().train()
    seen = _RowsSeen(model)

    returned = evaluate(model, batches_of(7, batch_size=3), evaluator=seen)

    assert returned is seen
    assert seen.rows == list(range(7))
    assert seen.modes == {(False, True)}


def test_evaluate__can_be_stopped_between_batches() -> None:
    model = tiny_model()
    seen = _RowsSeen(model)

    with pytest.raises(StopRequested):
        evaluate(model, batches_of(9, batch_size=3), evaluator=seen, check_stop=stop_after(2))

    assert seen.rows == [0, 1, 2]
