"""`--in-channels` as a shell sees it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]
SMALL = ("--model", "timm/test_resnet", "--weights", "none", "--device", "cpu", "--quiet")


@pytest.mark.parametrize("command", ["finetune", "extract-features"])
@pytest.mark.parametrize("channels", [0, 2, 5])
def test_in_channels__what_pictures_do_not_have(tlcli: Invoke, command: str, channels: int) -> None:
    result = tlcli(command, *SMALL, "--in-channels", channels)

    assert result.exit_code == 2
    assert (
        f"error: --in-channels {channels}: pictures are read with 1 channel (gray), 3 (RGB) or 4 "
        "(RGB and transparency); common image files hold no others."
    ) in " ".join(result.stderr.split())


def test_in_channels__evaluate_of_a_pretrained_model(tlcli: Invoke) -> None:
    result = tlcli("evaluate", "--model", "squeezenet1_1", "--in-channels", "0")

    assert result.exit_code == 2
    assert "--in-channels 0: pictures are read with" in result.stderr


def test_in_channels__mean_of_as_many_channels(tlcli: Invoke, photos: Path) -> None:
    words = ("finetune", "-d", photos, *SMALL, "--in-channels", "4", "--dry-run")

    assert tlcli(*words, "--mean", "0.1,0.2,0.3,0.4").exit_code == 0
    result = tlcli(*words, "--mean", "0.1,0.2,0.3")
    assert result.exit_code == 2
    assert "--mean '0.1,0.2,0.3' is not understood" in result.stderr


def test_in_channels__detectors_have_no_such_option(tlcli: Invoke) -> None:
    result = tlcli("detect-finetune", "--in-channels", "1")

    assert result.exit_code == 2
    assert "No such option: --in-channels" in result.stderr


@pytest.mark.slow
def test_in_channels__gray_digits_are_learnt(tlcli: Invoke) -> None:
    options = ("--in-channels", "1", "--input-size", "32", "--unfreeze", "all", "--epochs", "5")
    rates = ("--lr", "0.003", "--backbone-lr", "0.003", "--augment", "none", "--limit", "600")

    trained = tlcli("finetune", *SMALL, *options, *rates, "-o", "r", "--json")
    judged = tlcli("evaluate", "r", "--quiet", "--json")

    assert (trained.exit_code, judged.exit_code) == (0, 0)
    metrics = json.loads(trained.stdout)["results"]["val"]["metrics"]
    assert metrics["top1"] > 0.9
    assert json.loads(judged.stdout)["metrics"] == pytest.approx(metrics, rel=1e-6)
