from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch.nn import functional as F
from toy import image_batch, tiny_model

from tlcli.engine.ema import averaged_copy
from tlcli.engine.optim import (
    build_optimizer,
    build_scheduler,
    learning_rate_factor,
    param_groups,
    stage_learning_rates,
)
from tlcli.engine.training_state import TrainingState
from tlcli.errors import DataError
from tlcli.models.frozen_proof import frozen_digests
from tlcli.models.unfreezing import Phase

STAGES = ("stem", "blocks.0", "blocks.1", "head")
PHASES = (Phase(start=0, trained=("head",)), Phase(start=2, trained=("blocks.1", "head")))
CPU = torch.device("cpu")


def new_state(
    *,
    seed: int = 0,
    opt: str = "adamw",
    has_ema: bool = True,
    phases: Sequence[Phase] = PHASES,
) -> TrainingState:
    model = tiny_model(seed=seed)
    groups = param_groups(
        model,
        learning_rates=stage_learning_rates(STAGES, lr=0.1, backbone_lr=0.01, layer_decay=1.0),
        weight_decay=0.05,
        no_weight_decay=frozenset(),
    )
    optimizer = build_optimizer(model.network, groups, name=opt)  # type: ignore[arg-type]
    factor = learning_rate_factor("cosine", total_steps=20, warmup_steps=2)
    return TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, factor),
        phases=phases,
        ema=averaged_copy(model, decay=0.9) if has_ema else None,
    )


def train(state: TrainingState, *, steps: int) -> None:
    """Do plain steps, counted as the loop counts them."""
    state.model.train()
    for _ in range(steps):
        batch = image_batch(range(state.step, state.step + 4))
        loss = F.cross_entropy(state.model(batch.images / 255), batch.targets)
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.scheduler.step()
        if state.ema is not None:
            state.ema.update_parameters(state.model)
        state.loss_sums.append(torch.stack((loss.detach() * 4, torch.tensor(4.0))))
        state.step += 1


def everything(state: TrainingState) -> dict[str, Any]:
    return {
        "model": state.model.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "ema": state.ema.state_dict() if state.ema else None,
        "scaler": state.scaler.state_dict(),
        "sums": state.loss_sums,
        "at": (state.epoch, state.step, state.phase, state.rates),
        "digests": state.frozen_digests,
        "trained": state.model.trained,
        "open": [p.requires_grad for p in state.model.parameters()],
    }


def assert_equal(first: object, second: object) -> None:
    if isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor)
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        assert isinstance(second, list)
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


@pytest.fixture
def saved(tmp_path: Path) -> tuple[TrainingState, Path]:
    state = new_state()
    state.epoch = 2
    state.enter_phase()
    state.frozen_digests = frozen_digests(state.model)
    state.rates = {"head": 0.1, "backbone": None}
    train(state, steps=3)
    path = tmp_path / "last.pt"
    state.save(path, extra={"best_epoch": 1, "proofs": [{"changed_names": []}]})
    return state, path


def new_state_of(path: Path) -> TrainingState:
    """Return another state that took up a checkpoint."""
    state = new_state(seed=1)
    state.load(path, device=CPU)
    return state


def frozen_file(path: Path) -> Path:
    """Return the file beside a checkpoint."""
    (found,) = path.parent.glob("frozen-*.pt")
    return found


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_save__and_load_take_up_everything(tmp_path: Path, opt: str) -> None:
    state = new_state(opt=opt)
    state.epoch = 2
    state.enter_phase()
    state.frozen_digests = frozen_digests(state.model)
    state.rates = {"head": 0.1, "backbone": None}
    train(state, steps=3)
    state.save(tmp_path / "last.pt", extra={})
    taken_up = new_state(seed=1, opt=opt)

    taken_up.load(tmp_path / "last.pt", device=CPU)

    assert_equal(everything(taken_up), everything(state))
    train(state, steps=3)
    train(taken_up, steps=3)
    assert_equal(everything(taken_up), everything(state))


def test_load__another_grouping_is_refused(saved: tuple[TrainingState, Path]) -> None:
    other = new_state()
    other.optimizer.param_groups[0]["names"] = ["something.else"]

    with pytest.raises(DataError, match="groups its parameters in another way than this run's"):
        other.load(saved[1], device=CPU)


def test_load__returns_what_was_saved_with_it(saved: tuple[TrainingState, Path]) -> None:
    extra = new_state(seed=1).load(saved[1], device=CPU)

    assert extra == {"best_epoch": 1, "proofs": [{"changed_names": []}]}


def test_load__freezes_what_the_phase_freezes(saved: tuple[TrainingState, Path]) -> None:
    """Without an epoch left to do nobody else would, and the proof would find nothing frozen."""
    state = new_state(seed=1)

    state.load(saved[1], device=CPU)

    assert state.model.trained == {"blocks.1", "head"}
    assert frozen_digests(state.model) == state.frozen_digests


def test_load__another_plan_is_refused(saved: tuple[TrainingState, Path]) -> None:
    other = new_state(phases=(PHASES[0], Phase(start=2, trained=("blocks.0", "head"))))

    with pytest.raises(
        DataError,
        match=r"last\.pt was saved while blocks\.1, head were trained, but the run's plan says "
        r"blocks\.0, head at that epoch\.",
    ):
        other.load(saved[1], device=CPU)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing"])
def test_load__damaged_file_is_the_users_error(
    saved: tuple[TrainingState, Path], damage: str
) -> None:
    _, path = saved
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "noise": b"x" * 99}[damage]
        )

    with pytest.raises(DataError, match=r"last\.pt cannot be read \(.*--overwrite\.") as caught:
        new_state().load(path, device=CPU)
    assert caught.value.exit_code == 3


def test_load__runs_no_code_of_a_pickle(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Trap()}, tmp_path / "last.pt")

    with pytest.raises(DataError, match="cannot be read"):
        new_state().load(tmp_path / "last.pt", device=CPU)
    assert not (tmp_path / "ran").exists()


def test_save__a_failure_leaves_the_old_file(
    saved: tuple[TrainingState, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = saved
    before = path.read_bytes()

    def half_then_fail(_values: object, file: BinaryIO) -> None:
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_then_fail)
    with pytest.raises(KeyboardInterrupt):
        state.save(path, extra={})

    assert path.read_bytes() == before
    assert {entry.name for entry in path.parent.iterdir()} == {"last.pt", frozen_file(path).name}


def test_save__what_is_frozen_is_written_once_in_a_phase(
    saved: tuple[TrainingState, Path],
) -> None:
    state, path = saved
    first = frozen_file(path)
    written = first.stat()
    assert set(torch.load(first)) == set(state.frozen_digests) != set()
    assert not set(torch.load(path)["model"]) & set(state.frozen_digests)

    train(state, steps=1)
    state.save(path, extra={})
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)

    state.model.open_stages(["head"])
    state.frozen_digests = frozen_digests(state.model)
    state.save(path, extra={})
    second = frozen_file(path)  # the only one
    assert second != first
    assert set(torch.load(path)["model"]) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["last.pt", "frozen"])
def test_save__a_failure_at_a_new_phase_leaves_the_old_state(
    saved: tuple[TrainingState, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What the old file needs is there until the new one is."""
    state, path = saved
    before = everything(new_state_of(path))
    state.epoch, state.phases = 4, (*PHASES, Phase(start=4, trained=STAGES[1:]))
    state.enter_phase()
    state.frozen_digests = frozen_digests(state.model)
    save = torch.save

    def fail_at(values: dict[str, Any], file: BinaryIO) -> None:
        if ("model" in values) == (name == "last.pt"):
            raise KeyboardInterrupt
        save(values, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail_at)
        with pytest.raises(KeyboardInterrupt):
            state.save(path, extra={})

    assert_equal(everything(new_state_of(path)), before)


def test_save__averages_of_what_is_frozen_are_not_written_again(
    saved: tuple[TrainingState, Path],
) -> None:
    state, path = saved
    assert state.ema is not None
    written = torch.load(path)["ema"]

    names = {f"module.network.{name}" for name in state.frozen_digests}
    assert names
    assert not names & set(written)
    assert set(written) | names == set(state.ema.state_dict())


def test_save__averages_that_differ_are_written(saved: tuple[TrainingState, Path]) -> None:
    state, path = saved
    assert state.ema is not None
    name = next(iter(state.frozen_digests))
    state.ema.module.network.get_parameter(name).data.add_(1)

    state.save(path, extra={})

    assert_equal(everything(new_state_of(path)), everything(state))


def test_load__before_frozen_tensors_had_their_own_file(
    saved: tuple[TrainingState, Path],
) -> None:
    state, path = saved
    values = torch.load(path)
    del values["frozen"]
    values["ema"] = state.ema and state.ema.state_dict()
    torch.save(values | {"model": state.model.network.state_dict()}, path)

    assert_equal(everything(new_state_of(path)), everything(state))


def test_load__frozen_part_of_another_run_is_told(saved: tuple[TrainingState, Path]) -> None:
    file = frozen_file(saved[1])
    tensors = torch.load(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    torch.save(tensors, file)

    with pytest.raises(DataError, match=r"frozen-\w+\.pt is damaged: it does not hold what was"):
        new_state_of(saved[1])


def test_save__nothing_frozen_is_one_file(tmp_path: Path) -> None:
    new_state().save(tmp_path / "last.pt", extra={})

    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_load__missing_frozen_part_is_told(saved: tuple[TrainingState, Path]) -> None:
    frozen_file(saved[1]).unlink()

    with pytest.raises(DataError, match=r"checkpoint \S*/frozen-\w+\.pt cannot be read \(.*"):
        new_state().load(saved[1], device=CPU)


def test_enter_phase__opens_what_the_next_epoch_trains() -> None:
    state = new_state()
    opened = []
    for epoch in range(4):
        state.epoch = epoch
        is_over = state.phase is not None and state.phase_is_over()
        state.enter_phase()
        opened.append((state.phase, is_over, sorted(state.model.trained)))

    head, more = ["head"], ["blocks.1", "head"]
    assert opened == [(0, False, head), (0, False, head), (1, True, more), (1, False, more)]


def test_judged__is_the_average_where_there_is_one() -> None:
    with_average, without = new_state(), new_state(has_ema=False)

    assert with_average.ema is not None
    assert with_average.judged is with_average.ema.module
    assert with_average.judged_network is with_average.ema.module.network
    assert without.judged is without.model
    assert without.judged_network is without.model.network
