import copy
from pathlib import Path

import pytest
import torch
from toy import image_batch, tiny_model

from tlcli.engine.ema import averaged_copy
from tlcli.models.staged import StagedModel

DECAY = 0.3
"""Small, so that the warm-up 2/11, 3/12, ... is over within a few updates."""


def change(model: StagedModel, step: int) -> None:
    """Move every trained tensor, buffers of BatchNorm included."""
    model.train()
    model(image_batch(range(step, step + 4)).images / 255)
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator)


def test_averaged_copy__equals_an_average_written_by_hand() -> None:
    model = tiny_model()
    averaged = averaged_copy(model, decay=DECAY)
    expected: dict[str, torch.Tensor] = {}

    for updates in range(6):
        change(model, updates)
        averaged.update_parameters(model)
        for name, tensor in model.network.state_dict().items():
            if updates == 0 or not tensor.is_floating_point():
                expected[name] = tensor.clone()
            else:
                kept = min(DECAY, (1 + updates) / (10 + updates))
                expected[name] = kept * expected[name] + (1 - kept) * tensor

    found = averaged.module.network.state_dict()
    assert (1 + 5) / (10 + 5) > DECAY > (1 + 1) / (10 + 1)  # warm-up and what comes behind it
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


def test_averaged_copy__lags_behind_the_model() -> None:
    model = tiny_model()
    averaged = averaged_copy(model, decay=0.999)
    for step in range(3):
        change(model, step)
        averaged.update_parameters(model)

    assert not torch.equal(averaged.module.network.fc.weight, model.network.fc.weight)
    assert not torch.equal(
        averaged.module.network.norm.running_mean, model.network.norm.running_mean
    )


@pytest.mark.parametrize("decay", [0.2, 0.7, 0.9998])
def test_averaged_copy__frozen_tensors_keep_every_bit(decay: float) -> None:
    model = tiny_model()
    model.open_stages(["head"])
    before = {name: tensor.clone() for name, tensor in model.frozen_tensors()}
    averaged = averaged_copy(model, decay=decay)

    for step in range(8):
        change(model, step)
        averaged.update_parameters(model)

    found = averaged.module.network.state_dict()
    assert {"norm.running_var", "norm.num_batches_tracked", "stem.weight"} <= before.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def test_averaged_copy__goes_on_from_a_file_without_a_jump(tmp_path: Path) -> None:
    model = tiny_model()
    averaged = averaged_copy(model, decay=0.9998)
    for step in range(5):
        change(model, step)
        averaged.update_parameters(model)
    torch.save(averaged.state_dict(), tmp_path / "ema.pt")

    restored = averaged_copy(tiny_model(seed=1), decay=0.9998)
    restored.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    twin = copy.deepcopy(averaged)
    change(model, 5)
    for average in (twin, restored):
        average.update_parameters(model)

    assert restored.n_averaged.item() == 6
    for name, tensor in twin.module.network.state_dict().items():
        assert torch.equal(restored.module.network.state_dict()[name], tensor)


def test_averaged_copy__counts_on_the_cpu() -> None:
    """The count is read at every step: on an accelerator each reading would wait for it."""
    assert averaged_copy(tiny_model(), decay=0.9).n_averaged.device.type == "cpu"
