import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision
from typer.testing import Result

Invoke = Callable[..., Result]
SMALL = ("--model", "timm/test_vit", "--weights", "none", "--device", "cpu", "--epochs", "1")


def test_finetune__json_is_one_document_and_talk_is_elsewhere(
    tlcli: Invoke, tmp_path: Path, photos: Path
) -> None:
    result = tlcli("finetune", "-d", photos, *SMALL, "-o", "run", "--json")

    document = json.loads(result.stdout)  # exactly one: anything more is an error
    assert result.exit_code == 0
    assert document["schema_version"] == 1
    assert (document["run"], document["status"]) == ("run", "finished")
    assert set(document) == {
        "schema_version",
        "run",
        "status",
        "best",
        "results",
        "frozen",
        "trunk_cache",
        "seconds",
    }
    assert "Model: timm/test_vit, weights none." in result.stderr
    assert "1/1" in result.stderr
    assert "using" not in result.stderr


def test_finetune__summary_says_where_everything_is_and_what_next(
    tlcli: Invoke, photos: Path
) -> None:
    result = tlcli("finetune", "-d", photos, *SMALL, "-o", "run", "--unfreeze", "head", "--quiet")

    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[-2:] == ["Run folder: run", "Next: tlcli evaluate run --data OTHER_IMAGES"]
    assert "0 changed. Time: " in lines[-3]
    assert lines[-3].startswith("Frozen: ")
    assert any(line.startswith("top1 ") and "%" in line for line in lines)
    assert "\x1b" not in result.stdout


def test_finetune__no_color_on_a_terminal(tlcli: Invoke) -> None:
    words = ("finetune", "--epochs", "0")

    coloured = tlcli(*words, FORCE_COLOR="1", TERM="xterm")
    plain = tlcli(*words, FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")

    assert "\x1b[1;31m" in coloured.stderr
    assert "31m" not in plain.stderr
    assert plain.stderr.replace("\x1b[1m", "").replace("\x1b[0m", "").startswith("error: ")


def test_dry_run__of_the_users_own_example_has_exact_numbers(tlcli: Invoke) -> None:
    result = tlcli(
        *("finetune", "--model", "resnet50", "--unfreeze", "layer4"),
        *("--weights", "none", "--dry-run", "--json"),
    )

    network = torchvision.models.resnet50(num_classes=10)
    counts = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in network.named_children()
    }
    document = json.loads(result.stdout)
    rows = {row["stage"]: row for row in document["stages"]}
    assert (document["model"], document["weights"], document["classes"]) == (
        "torchvision/resnet50",
        "none",
        10,
    )
    assert {name: row["parameters"] for name, row in rows.items()} == {
        "conv1": counts["conv1"] + counts["bn1"],
        **{f"layer{n}": counts[f"layer{n}"] for n in (1, 2, 3, 4)},
        "head": counts["fc"],
    }
    assert rows["layer4"]["parameters"] == 14_964_736
    assert rows["head"]["parameters"] == 20_490
    assert [name for name, row in rows.items() if row["trained_from"] == 0] == ["layer4", "head"]
    assert rows["layer4"]["lr"] == pytest.approx(1e-4)
    assert (rows["layer3"]["lr"], rows["layer3"]["batch_norm"]) == (None, "eval")
    assert rows["layer4"]["batch_norm"] == "train"
    assert "No --data given: using sample:digits." in result.stderr
    assert "No --model given" not in result.stderr


def test_dry_run__table_says_it_in_words(tlcli: Invoke, tmp_path: Path) -> None:
    result = tlcli(
        *("finetune", "--schedule", "0:head,3:layer4", "--weights", "none", "--dry-run"),
    )

    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert result.exit_code == 0
    assert "No --model given: using resnet50." in result.stderr
    assert "torchvision/resnet50, weights none, 10 classes" in result.stdout
    assert rows[-3] == ["layer3", "7,098,368", "-", "-", "frozen", "eval"]
    assert " ".join(rows[-2]) == "layer4 14,964,736 0.0001 0.05 after 3 epochs eval, then train"
    assert " ".join(rows[-1]) == "head 20,490 0.001 0.05 from the start -"
    assert not list(tmp_path.iterdir())


def test_dry_run__hole_is_warned_of(tlcli: Invoke) -> None:
    result = tlcli("finetune", "--unfreeze", "layer2", "--weights", "none", "--dry-run", "-q")

    assert result.stderr == (
        "warning: layer3, layer4 stays frozen although an earlier stage is trained; "
        "last:N trains everything from a stage up to the head.\n"
    )


def test_finetune__weights_that_cannot_be_had_are_told(tlcli: Invoke, photos: Path) -> None:
    result = tlcli("finetune", "-d", photos, "--model", "resnet50", "--offline")

    assert (result.exit_code, result.stdout) == (4, "")
    assert "IMAGENET1K_V2" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1


def test_finetune__stage_that_does_not_exist_lists_those_that_do(
    tlcli: Invoke, photos: Path
) -> None:
    result = tlcli("finetune", "-d", photos, *SMALL, "--unfreeze", "layer4")

    assert result.exit_code == 2
    assert "--unfreeze 'layer4' matches no stage of this model." in result.stderr
    assert "Stages: patch_embed, blocks.0, blocks.1, " in result.stderr


@pytest.mark.slow
def test_finetune__without_any_option_works_word_for_word(tlcli: Invoke, tmp_path: Path) -> None:
    result = tlcli(
        *("finetune", "--model", "resnet50", "--unfreeze", "layer4", "--weights", "none"),
        *("--limit", "40", "--epochs", "1"),
    )

    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "runs" / "finetune-resnet50-digits" / "model.safetensors").is_file()


def test_finetune__lr_is_a_number_or_a_word(tlcli: Invoke, photos: Path, tmp_path: Path) -> None:
    words = ("finetune", "-d", photos, *SMALL, "--unfreeze", "head")

    result = tlcli(*words, "--lr", "fast", "-o", "run")
    assert result.exit_code == 2
    assert "'fast' is neither a number nor 'auto'" in result.stderr

    (tmp_path / "auto.toml").write_text('lr = "auto"')
    result = tlcli(*words, "--config", "auto.toml", "-o", "run", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "--lr auto: " in result.stderr

    (tmp_path / "bad.toml").write_text('lr = "fast"')
    result = tlcli(*words, "--config", "bad.toml", "-o", "other")
    assert "'lr' must be a number or 'auto', not 'fast'" in result.stderr


@pytest.mark.slow
def test_finetune__lr_auto_goes_on_with_what_was_found(tlcli: Invoke, photos: Path) -> None:
    words = ("finetune", "-d", photos, *SMALL, "--unfreeze", "head")
    assert tlcli(*words, "--lr", "auto", "-o", "run").exit_code == 0
    assert tlcli(*words, "-o", "plain").exit_code == 0

    again = tlcli(*words, "--lr", "auto", "-o", "run", "--resume")
    other = tlcli(*words, "--lr", "auto", "-o", "plain", "--resume")

    assert (again.exit_code, other.exit_code) == (0, 2)
    assert "is finished; there is nothing to go on with" in again.stderr
    assert "--lr auto differs from the run's own 0.001" in other.stderr


def test_finetune__max_time_may_grow_on_resume(tlcli: Invoke, photos: Path) -> None:
    words = ("finetune", "-d", photos, *SMALL, "--unfreeze", "head", "-o", "run", "-b", 4)
    short = tlcli(*words, "--max-time", "0.000001s")

    same = tlcli(*words, "--resume")
    more = tlcli(*words, "--resume", "--max-time", "1h")

    assert "The time is up (--max-time) after 0 epochs and 0 steps." in short.stderr
    assert "stopped after its --max-time 0.000001s: give it more to go on" in same.stderr
    assert "Going on after 0 epochs and 0 steps of the next." in more.stderr
    assert (short.exit_code, same.exit_code, more.exit_code) == (0, 0, 0)
