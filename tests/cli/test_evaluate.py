import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recipes.runs import finetune
from toy import make_split_folders
from typer.testing import Result

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    data = make_split_folders(root / "photos", counts={"train": 2, "val": 2})
    finetune(root / "run", data=data, model="timm/test_vit", epochs=1, unfreeze="head")
    return root / "run"


def test_evaluate__json_is_one_document(tlcli: Invoke, run: Path) -> None:
    result = tlcli("evaluate", run, "--device", "cpu", "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(document) == {
        "schema_version",
        "kind",
        "split",
        "num_images",
        "metrics",
        "intervals",
        "per_class",
    }
    assert set(document["metrics"]) == {"top1", "top5", "macro_f1", "loss", "ece"}
    assert [row["class"] for row in document["per_class"]] == ["ant", "bee", "cat"]
    assert set(document["per_class"][0]) == {"class", "precision", "recall", "f1", "support"}
    assert document == json.loads((run / "evaluation" / "val" / "metrics.json").read_text())
    assert "warning: val chose this model" in result.stderr


def test_evaluate__tables_say_it_to_people(tlcli: Invoke, run: Path) -> None:
    result = tlcli("evaluate", run, "--device", "cpu")

    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines[0] == "val: 6 images"
    assert lines[1].split() == ["metric", "value", "95", "%", "interval"]
    assert lines[-1] == f"Files: {run / 'evaluation' / 'val'}"
    assert "per class" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "evaluate needs either a run folder or --model NAME"),
        (["RUN", "--model", "resnet18"], "evaluate needs either a run folder or --model NAME"),
        (["RUN", "--weights", "none"], "--weights has no effect on a run folder"),
        (["RUN", "--output", "x"], "--output has no effect on a run folder"),
        (["RUN", "--overwrite"], "--overwrite has no effect on a run folder"),
        (["RUN", "--batch-size", "0"], "--batch-size must be 1 or more, not 0."),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_evaluate__options_that_do_not_go_together(
    tlcli: Invoke, run: Path, words: list[str], message: str
) -> None:
    result = tlcli("evaluate", *(run if word == "RUN" else word for word in words))

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
