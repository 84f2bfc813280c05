"""`tlcli detect-finetune` as a shell sees it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recipes.box_runs import make_box_folder
from typer.testing import Result

Invoke = Callable[..., Result]
SMALL = (
    *("--model", "fcos", "--backbone", "timm/test_resnet", "--weights", "none"),
    *("--device", "cpu", "--epochs", "1", "--image-size", "64", "--num-workers", "1"),
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of a small run, and have tests of their own."""
    for function in (
        "tlcli.results.detection_files.draw_precision_recall",
        "tlcli.recipes.detection_judging.draw_galleries",
        "tlcli.recipes.detect_finetune.draw_training_curves",
    ):
        monkeypatch.setattr(function, lambda *_, **__: None)


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli_boxes")
    return make_box_folder(root / "scenes", counts={"train": 3, "val": 2})


def test_detect_finetune__run_evaluate_and_resume(tlcli: Invoke, boxes: Path) -> None:
    result = tlcli("detect-finetune", "-d", boxes, *SMALL, "-o", "run")

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[-2:] == ["Run folder: run", "Next: tlcli evaluate run --data OTHER_IMAGES"]
    assert lines[-3].startswith("Frozen: ")
    assert "0 changed. Time: " in lines[-3]
    assert any(line.split()[:1] == ["map"] for line in lines)
    assert "\x1b" not in result.stdout
    assert "Model: fcos on timm/test_resnet, 64 px, strides 8,16,32, weights none." in result.stderr
    assert "1/1" in result.stderr
    assert "using" not in result.stderr

    resumed = tlcli("detect-finetune", "-o", "run", "--resume", "--json")

    document = json.loads(resumed.stdout)  # exactly one: anything more is an error
    assert resumed.exit_code == 0
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
    assert document["best"]["metric"] == "val/map"
    assert "run is finished; there is nothing to go on with." in resumed.stderr

    evaluated = tlcli("evaluate", "run", "--split", "val", "--json", "--device", "cpu")

    found = json.loads(evaluated.stdout)
    assert evaluated.exit_code == 0
    assert (found["schema_version"], found["kind"], found["split"]) == (1, "detection", "val")
    assert found["metrics"] == document["results"]["val"]["metrics"]
    assert found["intervals"] == document["results"]["val"]["intervals"]
    columns = {"class", "ap", "ap50", "ar", "support"}
    assert [set(row) for row in found["per_class"]] == [columns] * 3

    told = tlcli("evaluate", "run", "--split", "val", "-q")

    words = [line.split() for line in told.stdout.splitlines()]
    assert told.exit_code == 0
    assert ["class", "ap50", "ar", "ap", "boxes"] in words
    assert any(line[:1] == ["mar_100"] for line in words)


def test_detect_finetune__json_is_one_document(tlcli: Invoke, boxes: Path) -> None:
    words = ("--unfreeze", "head", "--limit", "1", "--val-split", "0")

    result = tlcli("detect-finetune", "-d", boxes, *SMALL, *words, "-o", "run", "--json", "-q")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "finished"


def test_dry_run__table_says_it_in_words(tlcli: Invoke, tmp_path: Path, boxes: Path) -> None:
    result = tlcli(
        *("detect-finetune", "-d", boxes, *SMALL, "--unfreeze", "layer4", "--dry-run"),
    )

    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert result.exit_code == 0
    assert "fcos on timm/test_resnet, weights none, 3 classes" in result.stdout
    stages = {row[0]: row for row in rows if row[0] in ("layer3", "layer4", "head")}
    assert stages["layer3"][2:] == ["-", "-", "frozen", "eval"]
    assert stages["layer4"][2:] == ["0.0001", "0.05", "from", "the", "start", "train"]
    assert stages["head"][-6:-1] == ["0.0005", "0.05", "from", "the", "start"]
    assert not list(tmp_path.iterdir())


def test_dry_run__without_any_option_says_what_is_taken(tlcli: Invoke, tmp_path: Path) -> None:
    result = tlcli("detect-finetune", "--dry-run", "--json", "--weights", "none")

    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["model"], document["classes"]) == (
        "fasterrcnn on timm/tf_efficientnet_lite0",
        10,
    )
    assert "No --data given: using sample:digits." in result.stderr
    assert "No --model given: using fasterrcnn." in result.stderr
    assert not list(tmp_path.iterdir())


BASE = {
    "--data": None,
    "--model": "fcos",
    "--backbone": "timm/test_resnet",
    "--weights": "none",
    "--device": "cpu",
}
NAMED_RETINANET = ["--model", "retinanet_resnet50_fpn", "--backbone", ""]


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["--epochs", "0"], 2, "--epochs must be 1 or more, not 0."),
        (["--image-size", "31"], 2, "--image-size must be in 32..4096 (pixels), not 31."),
        (["--image-size", "100000"], 2, "--image-size must be in 32..4096 (pixels), not 100000."),
        (["--sampled-boxes", "0"], 2, "--sampled-boxes must be 1 or more, not 0."),
        (["--unfreeze", "layer5"], 2, "--unfreeze 'layer5' matches no stage of this model."),
        (["--monitor", "top1"], 2, None),
        (["--on-bad-box", "skip"], 2, None),
        (
            ["--model", "ssd300_vgg16"],
            2,
            "--backbone timm/test_resnet has no effect on ssd300_vgg16, which has its own",
        ),
        (
            ["--model", "ssd300_vgg16", "--backbone", "", "--image-size", "640"],
            2,
            "torchvision/ssd300_vgg16 works on pictures of 300x300 pixels only, not --image-size",
        ),
        (
            ["--model", "retinanet", "--sampled-boxes", "64"],
            2,
            "--sampled-boxes has no effect on retinanet, which samples none.",
        ),
        (["--data", "nowhere"], 3, "There is no data at '"),
        (["--data", "sample:digit"], 3, "No sample data called 'sample:digit'. Did you mean"),
        (["--model", "fasterrcn", "--backbone", ""], 4, "No detector is called 'fasterrcn'."),
        (["--backbone", "timm/resnet18x"], 4, ""),
        (
            [*NAMED_RETINANET, "--weights", "default", "--offline"],
            4,
            "Weights 'COCO_V1' of torchvision/retinanet_resnet50_fpn are not to be had: --offline",
        ),
        (["--backbone", "timm/resnet18", "--weights", "default", "--offline"], 4, ""),
        (["--device", "mps:7"], 5, "--device mps:7"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_mistake__is_one_line_and_an_exit_code(
    tlcli: Invoke,
    tmp_path: Path,
    boxes: Path,
    words: list[str],
    exit_code: int,
    message: str | None,
) -> None:
    given = dict(zip(words[::2], words[1::2], strict=False))
    flags = words[len(words) // 2 * 2 :]
    options = {**BASE, "--data": str(boxes), **given}
    line = [part for key, value in options.items() if value for part in (key, value)]

    result = tlcli("detect-finetune", *line, *flags, "-o", "run")

    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
    if message is not None:
        *_, last = result.stderr.splitlines()
        assert last.startswith(f"error: {message}")
        assert result.stderr.count("error: ") == 1


def test_detect_finetune__class_folders_belong_to_finetune(
    tlcli: Invoke, photos: Path, tmp_path: Path
) -> None:
    result = tlcli("detect-finetune", "-d", photos, *SMALL, "-o", "run")

    assert (result.exit_code, result.stdout) == (3, "")
    assert "`tlcli finetune` takes" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--head", "--label-smoothing", "--init-head", "--freeze-norm"])
def test_detect_finetune__has_no_options_of_classifiers(tlcli: Invoke, option: str) -> None:
    result = tlcli("detect-finetune", option, "1")

    assert result.exit_code == 2
    assert option in result.stderr
