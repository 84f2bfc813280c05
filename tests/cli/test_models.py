import csv
import io
import json
from collections.abc import Callable

import pytest
import timm
from typer.testing import Result

Invoke = Callable[..., Result]


def test_list__names_are_one_per_line(tlcli: Invoke) -> None:
    result = tlcli("models", "list", "resnet18", "--names")

    assert (result.exit_code, result.stderr) == (0, "")
    assert {"torchvision/resnet18", "timm/resnet18"} <= set(result.stdout.splitlines())


def test_list__json_csv_and_names_agree(tlcli: Invoke) -> None:
    words = ("models", "list", "vit_*", "--source", "timm", "--limit", "5")

    names = tlcli(*words, "--names").stdout.splitlines()
    document = json.loads(tlcli(*words, "--json").stdout)
    table = list(csv.DictReader(io.StringIO(tlcli(*words, "--csv").stdout)))

    assert document["schema_version"] == 1
    assert [row["name"] for row in document["models"]] == names
    assert [row["name"] for row in table] == names
    assert [row["weights"].split() for row in table] == [
        row["weights"] for row in document["models"]
    ]
    assert len(names) == 5
    assert all(name.startswith("timm/vit_") for name in names)


def test_list__table_counts_its_rows(tlcli: Invoke) -> None:
    result = tlcli("models", "list", "torchvision/resnet50")

    assert result.stdout.splitlines()[0].strip() == "1 models"
    assert "IMAGENET1K_V2, IMAGENET1K_V1" in result.stdout


def test_list__all_has_more_than_pretrained(tlcli: Invoke) -> None:
    pretrained = tlcli("models", "list", "vit_*", "--names").stdout.splitlines()
    everything = tlcli("models", "list", "vit_*", "--all", "--names").stdout.splitlines()

    assert set(pretrained) < set(everything)


def test_list__formats_exclude_each_other(tlcli: Invoke) -> None:
    result = tlcli("models", "list", "--json", "--csv")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: --json, --csv and --names exclude each other.\n"


def test_list__nothing_found_is_an_empty_list(tlcli: Invoke) -> None:
    result = tlcli("models", "list", "no_such_net", "--names")

    assert (result.exit_code, result.stdout) == (0, "")


def test_show__stages_are_valid_for_unfreeze(tlcli: Invoke) -> None:
    document = json.loads(tlcli("models", "show", "timm/test_resnet", "--json").stdout)
    network = timm.create_model("test_resnet")

    counts = {stage["name"]: stage["parameters"] for stage in document["stages"]}
    assert document["name"] == "timm/test_resnet"
    assert document["parameters"] == sum(counts.values())
    assert document["parameters"] == sum(p.numel() for p in network.parameters())
    assert counts["layer4"] == sum(p.numel() for p in network.layer4.parameters())


def test_show__tells_it_to_people(tlcli: Invoke) -> None:
    result = tlcli("models", "show", "resnet18")

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0] == "torchvision/resnet18: 11,689,512 parameters, 512 features"
    assert lines[1] == (
        "input 224x224, resized to 256x256 (bilinear), crop center, "
        "mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    )
    assert any(line.split() == ["layer4", "8,393,728"] for line in lines)
    assert any("IMAGENET1K_V1" in line and "69.8 %" in line for line in lines)


@pytest.mark.parametrize("words", [["--limit", "-1"], ["--source", "keras"]])
def test_list__wrong_values_are_usage_errors(tlcli: Invoke, words: list[str]) -> None:
    assert tlcli("models", "list", *words).exit_code == 2
