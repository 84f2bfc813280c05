"""A run on images of another size can be judged, resumed and taken further."""

from pathlib import Path

import pytest
from toy import make_split_folders

from recipes.runs import evaluate, finetune, record_of
from tlcli.errors import ConfigError

OPTIONS = {"model": "timm/test_vit", "weights": "none", "input_size": 64, "unfreeze": "last:1"}


def test_finetune__with_another_input_size_is_one_everywhere(tmp_path: Path) -> None:
    data = make_split_folders(tmp_path / "photos", counts={"train": 4, "val": 2})

    finetune(tmp_path / "run", data=data, epochs=1, **OPTIONS)
    evaluation, _ = evaluate(run=tmp_path / "run")

    record = record_of(tmp_path / "run")
    assert record["preprocessing"]["input_size"] == [64, 64]
    assert record["config"]["input_size"] == 64
    metrics = record["results"]["val"]["metrics"]
    assert evaluation.report.metrics == pytest.approx(metrics, rel=1e-6)
    _, talk = finetune(tmp_path / "run", data=data, epochs=1, resume=True, **OPTIONS)
    assert any("nothing to go on with" in note for note in talk.notes)


def test_evaluate__a_run_has_its_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--input-size has no effect on a run folder"):
        evaluate(run=tmp_path, input_size=64)


def test_evaluate__a_detector_takes_any_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--input-size 64 has no effect on a detector"):
        evaluate(model="ssd300_vgg16", input_size=64, output=tmp_path / "out")
