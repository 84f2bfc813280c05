import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
from typer.testing import Result

from tlcli.cli.models import _count

Invoke = Callable[..., Result]
EXAMPLES = "30M, 900k or 1.2B."


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
    for cells, row in zip(table, document["models"], strict=True):
        assert cells["weights"].split() == row["weights"]
        assert cells["parameters"] == ("" if row["parameters"] is None else str(row["parameters"]))
        assert set(cells) == set(row)
    assert len(names) == 5
    assert all(name.startswith("timm/vit_") for name in names)


def test_list__table_counts_its_rows(tlcli: Invoke) -> None:
    result = tlcli("models", "list", "torchvision/resnet50")

    assert result.stdout.splitlines()[0].strip() == "1 model"
    assert result.stdout.splitlines()[2].split() == [
        *("torchvision/resnet50", "IMAGENET1K_V2", "(+1)", "25.6M", "4.09", "224", "80.9", "%"),
        *("in1k", "BSD-3-Clause"),
    ]


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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["restnet18"], "No model for classification is called like 'restnet18'. Did you mean 'to"),
        (["timm/vit_tinny*"], "No model for classification is called like 'timm/vit_tinny*'. Did"),
        (["resnet18", "--max-gmacs", "0.001"], " called like that the filters leave none."),
        (["--max-params", "1"], " models the filters leave none."),
    ],
)
def test_list__nothing_found_is_explained(tlcli: Invoke, words: list[str], told: str) -> None:
    result = tlcli("models", "list", *words)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "0 models"
    assert told in result.stderr


def test_list__nothing_is_like_it(tlcli: Invoke) -> None:
    assert tlcli("models", "list", "zzzzzzzzzzzz").stderr == ""


@pytest.mark.parametrize(
    ("name", "there"),
    [("timm/test_vit.foo", "r160_in1k"), ("torchvision/resnet50.foo", "IMAGENET1K_V1, IMAGENET1K")],
)
def test_show__unknown_weights_list_those_that_are(tlcli: Invoke, name: str, there: str) -> None:
    result = tlcli("models", "show", name)
    assert result.exit_code == 4
    assert f" has no weights called 'foo'. There are: {there}" in result.stderr


def test_list__available_loads_no_library(tlcli: Invoke) -> None:
    tlcli("models", "list", "--names")  # makes the catalogue
    code = (
        "import sys; from tlcli.cli.app import app; "
        "app(['models', 'list', '--available', '--names'], standalone_mode=False); "
        "sys.exit(' '.join({'torch', 'timm', 'torchvision'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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
    assert lines[0] == "torchvision/resnet18: 11,689,512 parameters, 1.81 GMACs, 512 features"
    assert lines[1] == (
        "input 224x224, resized to 256x256 (bilinear), crop center, "
        "mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    )
    assert any(line.split() == ["layer4", "8,393,728"] for line in lines)
    assert any("IMAGENET1K_V1" in line and "69.8 %" in line for line in lines)


def test_list__filters_and_order(tlcli: Invoke) -> None:
    words = ("--max-params", "4M", "--min-top1", "0.7", "--sort", "top1", "--json")
    rows = json.loads(tlcli("models", "list", *words).stdout)["models"]
    assert rows
    assert all(row["parameters"] <= 4_000_000 and row["score"] >= 0.7 for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


@pytest.mark.parametrize(
    ("text", "number"), [("30M", 30_000_000), ("900k", 900_000), ("1.2b", 1_200_000_000), ("7", 7)]
)
def test_count__suffixes(text: str, number: int) -> None:
    assert _count(text) == number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            (
                ["--max-params", text],
                f"--max-params '{text}' is no number above 0: write {EXAMPLES}",
            )
            for text in ("many", "-3M", "-1", "0", "nan")
        ),
        (["--max-gmacs", "-1"], "--max-gmacs must be above 0, not -1."),
        (["--max-gmacs", "nan"], "--max-gmacs must be above 0, not nan."),
        (["--input-size", "0"], "--input-size must be 1 pixel or more, not 0."),
        (["--min-top1", "80"], "--min-top1 must be a fraction in 0..1, not 80."),
    ],
)
def test_list__wrong_limits(tlcli: Invoke, words: list[str], message: str) -> None:
    result = tlcli("models", "list", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {message}\n"


@pytest.mark.parametrize("words", [["--limit", "-1"], ["--source", "keras"]])
def test_list__wrong_values_are_usage_errors(tlcli: Invoke, words: list[str]) -> None:
    assert tlcli("models", "list", *words).exit_code == 2


def test_models_list__tells_where_detectors_are(tlcli: Invoke) -> None:
    result = tlcli("models", "list", "*rcnn*")
    assert result.exit_code == 0
    assert "4 of the models for detection are called like that: --task detection." in result.stderr
    assert "called like that" not in tlcli("models", "list", "resnet18").stderr


def test_models_show__of_a_detector_points_elsewhere(tlcli: Invoke) -> None:
    result = tlcli("models", "show", "fcos_resnet50_fpn")
    assert result.exit_code == 4
    assert (
        "'fcos_resnet50_fpn' is a detector: `tlcli models list --task detection`" in result.stderr
    )
