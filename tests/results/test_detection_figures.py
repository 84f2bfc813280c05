from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.results.detection_curves import PrecisionRecall
from tlcli.results.detection_figures import draw_precision_recall


def make_curves(names: list[str], *, absent: int | None = None) -> PrecisionRecall:
    levels = np.linspace(1, 0.4, 10)[:, None, None] * np.linspace(1, 0, 101)[None, :, None]
    precision = levels * np.linspace(1, 0.5, len(names))
    recall = np.full((10, len(names)), 0.8)
    if absent is not None:
        precision[..., absent] = recall[:, absent] = -1
    return PrecisionRecall(
        class_names=names, precision=precision, recall=recall, scores=np.zeros_like(precision)
    )


def drawn(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("num_classes", [1, 2, 10, 11, 80])
def test_draw_precision_recall__any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    path = tmp_path / "pr.png"
    curves = make_curves([f"{'very ' * 9}long name {i}" for i in range(num_classes)])
    draw_precision_recall(path, curves=curves, title="test")
    width, height = drawn(path).size
    assert 900 < width < 1800
    assert 600 < height < 1000


@pytest.mark.filterwarnings("error")
def test_draw_precision_recall__names_that_the_font_lacks(tmp_path: Path) -> None:
    path = tmp_path / "pr.png"
    names = ["猫", "_hidden", r"$\frac{", "Großer Bär", "\udcff"]
    draw_precision_recall(path, curves=make_curves(names), title="犬 $x_{")
    assert drawn(path).width > 900


def test_draw_precision_recall__classes_without_truth_are_left_out(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone.png", tmp_path / "beside.png"
    curves = make_curves(["a", "b", "c"], absent=1)
    draw_precision_recall(beside, curves=curves, title="")
    kept = PrecisionRecall(
        class_names=["a", "c"],
        precision=curves.precision[..., [0, 2]],
        recall=curves.recall[:, [0, 2]],
        scores=curves.scores[..., [0, 2]],
    )
    draw_precision_recall(alone, curves=kept, title="")
    assert drawn(alone).tobytes() == drawn(beside).tobytes()


def test_draw_precision_recall__no_truth_at_all(tmp_path: Path) -> None:
    path = tmp_path / "pr.png"
    draw_precision_recall(path, curves=make_curves(["a"], absent=0), title="")
    assert drawn(path).width > 600


def test_rows__scores_only_where_recall_was_reached() -> None:
    rows = list(make_curves(["a", "b"], absent=0).rows())
    assert len(rows) == 10 * 101
    assert {row[0] for row in rows} == {"b"}
    assert [row[1] for row in rows[::101]] == [
        0.5,
        0.55,
        0.6,
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.95,
    ]
    assert [row[4] is None for row in rows[:101]] == [False] * 81 + [True] * 20
