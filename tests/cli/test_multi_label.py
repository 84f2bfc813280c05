"""`--multi-label` as a shell sees it: what is printed, and what every mistake is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import SHAPES, draw_shapes, make_shape_table, shape_sets, write_flags
from typer.testing import Result

Invoke = Callable[..., Result]
BASE = ("--model", "timm/test_vit", "--weights", "none", "--device", "cpu", "--epochs", "1")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return make_shape_table(tmp_path, 16, size=32)


def test_finetune_and_evaluate__from_table_to_numbers(tlcli: Invoke, table: Path) -> None:
    text = table.read_text().replace("|", ";")
    table.write_text(text)
    words = ("-d", "table.csv", *BASE, "--multi-label", "--label-separator", ";", "-o", "run")

    result = tlcli("finetune", *words)

    assert result.exit_code == 0, result.stderr
    assert "table.csv: 3 classes, 13 train, 3 val images." in result.stderr
    assert "An image has 1." in result.stderr
    assert "chosen by val/map (epoch 1)" in result.stdout
    names = [line.split()[0] for line in result.stdout.splitlines()[2:12]]
    assert names == [
        "map",
        *("micro_precision", "micro_recall", "micro_f1"),
        *("macro_precision", "macro_recall", "macro_f1"),
        *("subset_accuracy", "hamming_loss", "loss"),
    ]
    again = tlcli("finetune", *words, "--resume")
    assert again.exit_code == 0, again.stderr
    assert "is finished; there is nothing to go on with" in again.stderr
    alone = tlcli("finetune", "-o", "run", "--resume")
    assert alone.exit_code == 0, alone.stderr
    document = json.loads(tlcli("evaluate", "run", "--device", "cpu", "--json").stdout)
    assert (document["kind"], document["split"], document["num_images"]) == (
        "multi-label",
        "val",
        3,
    )
    assert [row["class"] for row in document["per_class"]] == list(SHAPES)
    shown = tlcli(
        *("evaluate", "run", "--device", "cpu", "-d", "table.csv", "--label-separator", ";")
    )
    assert shown.exit_code == 0, shown.stderr
    header = next(line for line in shown.stdout.splitlines() if line.startswith("class "))
    assert header.split() == ["class", "precision", "recall", "f1", "ap", "images"]
    files = {path.name for path in Path("run/evaluation/val").iterdir()}
    assert files == {"metrics.json", "per_class.csv", "precision_recall.png", "predictions.csv"}
    assert Path("run/training_curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "sample:digits gives every image one class. Images with several classes or none"),
        (("-d", "."), 2, "need a .csv, .tsv or .parquet table."),
        (("-d", "torchvision:Flowers102"), 2, "torchvision:Flowers102 gives every image one class"),
        (("-d", "hf:beans"), 2, "hf:beans gives every image one class"),
        (("-d", "nowhere.csv"), 3, "nowhere.csv'. --data understands"),
        (("-d", "table.csv", "--loss", "cross-entropy"), 2, "use bce, which is what it takes"),
        (("-d", "table.csv", "--sampler", "balanced"), 2, "--sampler balanced draws images by"),
        (("-d", "table.csv", "--monitor", "top1"), 2, "there are map, micro_f1, macro_f1 and loss"),
        (("-d", "table.csv", "--init-head", "x"), 2, "--init-head x brings a head that was solved"),
        (
            ("-d", "table.csv", "--loss", "focal", "--label-smoothing", "0.1"),
            2,
            "--label-smoothing 0.1 and --loss focal exclude each other",
        ),
        (("-d", "table.csv", "--label-separator", ""), 2, "--label-separator is empty"),
        (("-d", "table.csv", "--label-column", "img"), 3, "--label-column 'img' is no column of"),
        (("-d", "table.csv", "--label-column", "path,x"), 3, "--label-column 'x' is no column of"),
        (("-d", "flags.csv"), 3, "add --label-column 'blue bar,green square,red disc'."),
        (
            ("-d", "flags.csv", "--label-column", "blue bar,path"),
            3,
            "flags.csv has 'img/000.png' in the label column 'path', data row 1",
        ),
        (
            ("-d", "flags.csv", "--label-column", "red disc", "--label-separator", ";"),
            2,
            "--label-separator ';' has no effect on flags.csv",
        ),
    ],
)
def test_finetune__mistakes_are_told(
    tlcli: Invoke, table: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    sets = shape_sets(4)
    write_flags(table.parent / "flags.csv", draw_shapes(table.parent, sets), sets)

    result = tlcli("finetune", "--multi-label", *BASE, *words, "-o", "run")

    assert result.exit_code == code, result.stderr
    assert message in " ".join(result.stderr.split())
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--loss", "bce"),
            "--loss bce lets an image have several classes: it needs --multi-label.",
        ),
        (("--monitor", "map"), "--monitor map is measured with --multi-label only."),
        (("--label-separator", ";"), "--label-separator ';' has no effect without --multi-label."),
    ],
)
def test_finetune__of_one_class_per_image_has_none_of_it(
    tlcli: Invoke, words: tuple[str, ...], message: str
) -> None:
    result = tlcli("finetune", *BASE, *words, "-o", "run")
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True)


def test_evaluate__separator_without_a_run(tlcli: Invoke) -> None:
    words = ("evaluate", "--model", "resnet50", "-d", "t.csv", "--label-separator", ";")
    result = tlcli(*words)
    assert result.exit_code == 2
    assert "--label-separator ';' has no effect on --model" in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", ["extract-features", "detect-finetune"])
def test_other_commands__have_no_such_option(tlcli: Invoke, command: str) -> None:
    result = tlcli(command, "--multi-label")
    assert result.exit_code == 2
    assert "No such option: --multi-label" in result.stderr
