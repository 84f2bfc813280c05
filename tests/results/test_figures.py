from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.errors import MachineError
from tlcli.results.figures import (
    CurvePoint,
    draw_confusion_matrix,
    draw_few_shot_curve,
    draw_lr_range,
    draw_penalty_path,
    draw_training_curves,
    merge_cells,
    most_confused,
    row_shares,
)
from tlcli.results.records import Row


def drawn_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize("num_classes", [1, 2, 12, 60, 120, 1001])
def test_draw_confusion_matrix__any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    counts = np.eye(num_classes, dtype=np.int64) * 5
    counts[0] = 0  # a class without images
    labels = [f"{'very ' * 8}long name {i}" for i in range(num_classes)]
    path = tmp_path / "m.png"
    draw_confusion_matrix(path, counts=counts, labels=labels, title="test")
    width, height = drawn_size(path)
    assert 300 < width < 4500
    assert 300 < height < 4500


def test_draw_confusion_matrix__names_that_look_like_formulas(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    labels = [r"$\frac{", "$_{x$ ^"]
    draw_confusion_matrix(path, counts=np.eye(2, dtype=int), labels=labels, title="$x_{ $")
    assert drawn_size(path) > (300, 300)


def test_draw_confusion_matrix__colours_follow_the_row_shares(tmp_path: Path) -> None:
    def darkness(counts: list[list[int]]) -> float:
        path = tmp_path / "m.png"
        draw_confusion_matrix(path, counts=np.array(counts), labels=["a", "b"], title="")
        with Image.open(path) as image:
            return 255 - float(np.asarray(image.convert("L")).mean())

    assert darkness([[9, 0], [0, 1]]) == pytest.approx(darkness([[1, 0], [0, 9]]), rel=0.01)
    assert darkness([[9, 0], [0, 9]]) > 1.2 * darkness([[0, 0], [0, 9]])


def test_row_shares__sum_to_one_and_nan_without_images() -> None:
    shares = row_shares(np.array([[1, 3], [0, 0]]))
    np.testing.assert_array_equal(shares, [[0.25, 0.75], [np.nan, np.nan]])


def test_merge_cells__largest_of_each_block() -> None:
    shares = np.array([[0.1, 0.2, 0.7], [np.nan, np.nan, np.nan], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(merge_cells(shares, block=2), [[0.2, 0.7], [np.nan, np.nan]])
    np.testing.assert_array_equal(merge_cells(shares, block=1), shares)


def test_most_confused__highest_first_without_the_diagonal() -> None:
    counts = np.array([[50, 2, 0], [7, 50, 2], [0, 0, 50]])
    assert most_confused(counts, limit=20) == [(1, 0), (0, 1), (1, 2)]
    assert most_confused(counts, limit=1) == [(1, 0)]
    assert counts[0, 0] == 50


def curve_rows(num_epochs: int) -> list[Row]:
    return [
        {"epoch": e, "phase": 1 + e // 3, "train/loss": 1 / e, "val/loss": None, "val/top1": 0.5}
        for e in range(1, num_epochs + 1)
    ]


@pytest.mark.parametrize("num_epochs", [1, 7])
def test_draw_training_curves__writes_a_png(tmp_path: Path, num_epochs: int) -> None:
    draw_training_curves(tmp_path / "c.png", rows=curve_rows(num_epochs))
    assert drawn_size(tmp_path / "c.png") > (500, 500)


def test_draw_training_curves__marks_phases(tmp_path: Path) -> None:
    rows = curve_rows(7)
    draw_training_curves(tmp_path / "phases.png", rows=rows)
    draw_training_curves(tmp_path / "one.png", rows=[{**row, "phase": 1} for row in rows])
    assert (tmp_path / "phases.png").read_bytes() != (tmp_path / "one.png").read_bytes()


@pytest.mark.parametrize("rows", [[], curve_rows(2)])
def test_draw_training_curves__nothing_to_draw(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="no epochs with val/map to draw"):
        draw_training_curves(tmp_path / "c.png", rows=rows, metric="val/map")


def points(*means: float, half: float) -> list[CurvePoint]:
    return [
        CurvePoint(shots=5**i, mean=mean, low=mean - half, high=mean + half, n=5)
        for i, mean in enumerate(means)
    ]


def test_draw_few_shot_curve__writes_a_png(tmp_path: Path) -> None:
    draw_few_shot_curve(tmp_path / "c.png", points=points(0.4, 0.6, 0.7, half=0.1), split="test")
    assert drawn_size(tmp_path / "c.png") > (500, 300)


def test_draw_few_shot_curve__wider_intervals_are_seen(tmp_path: Path) -> None:
    def ink(half: float) -> float:
        # the outermost points pin the axes
        wide = points(0.2, 0.5, 0.6, 0.8, half=half)
        ends = [
            CurvePoint(shots=p.shots, mean=p.mean, low=0.0, high=1.0, n=5)
            for p in (wide[0], wide[-1])
        ]
        path = tmp_path / "c.png"
        draw_few_shot_curve(path, points=[ends[0], *wide[1:-1], ends[1]], split="val")
        with Image.open(path) as image:
            return float((255 - np.asarray(image.convert("L"), dtype=float)).sum())

    assert ink(0.2) > 1.02 * ink(0.01)


def test_draw_few_shot_curve__one_point_without_an_interval(tmp_path: Path) -> None:
    alone = CurvePoint(shots=3, mean=0.5, low=float("nan"), high=float("nan"), n=1)
    draw_few_shot_curve(tmp_path / "c.png", points=[alone], split="val")
    assert drawn_size(tmp_path / "c.png") > (500, 300)


@pytest.mark.parametrize("penalties", [[0.1], [1e-5, 1e-3, 10.0], [1.0, 3.0, 100.0]], ids=str)
def test_draw_penalty_path__writes_a_png(tmp_path: Path, penalties: list[float]) -> None:
    count = len(penalties)
    draw_penalty_path(
        tmp_path / "p.png",
        penalties=penalties,
        top1=[0.5] * count,
        loss=[1.0 / (1 + i) for i in range(count)],
        name="C",
    )
    assert drawn_size(tmp_path / "p.png") > (500, 400)


def test_draw_penalty_path__shows_both_values_and_the_name(tmp_path: Path) -> None:
    def picture(**changes: object) -> bytes:
        values = {"top1": [0.1, 0.9], "loss": [2.0, 1.0], "name": "C", **changes}
        draw_penalty_path(tmp_path / "p.png", penalties=[0.1, 1.0], **values)  # type: ignore[arg-type]
        return (tmp_path / "p.png").read_bytes()

    plain = picture()
    assert picture() == plain
    changes = ({"top1": [0.9, 0.1]}, {"loss": [1.0, 2.0]}, {"name": "alpha"})
    assert all(picture(**change) != plain for change in changes)


def test_few_shot_and_penalty_pictures__unwritable_folder_is_told(tmp_path: Path) -> None:
    path = tmp_path / "no_folder" / "x.png"
    with pytest.raises(MachineError, match="Cannot write"):
        draw_few_shot_curve(path, points=points(0.5, half=0.1), split="val")
    with pytest.raises(MachineError, match="Cannot write"):
        draw_penalty_path(path, penalties=[1.0], top1=[0.5], loss=[1.0], name="C")


@pytest.mark.parametrize("chosen", [1e-3, None])
def test_draw_lr_range__marks_what_was_chosen(tmp_path: Path, chosen: float | None) -> None:
    rates = [10.0**power for power in range(-6, 1)]
    losses = [2.3, 2.3, 2.2, 1.5, 1.0, 3.0, 900.0]
    path = tmp_path / "lr.png"

    draw_lr_range(path, rates=rates, losses=losses, smoothed=losses, chosen=chosen)

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    is_red = (pixels[..., 0] > 200) & (pixels[..., 1] < 80)
    assert drawn_size(path) > (600, 400)
    assert is_red.any() == (chosen is not None)
