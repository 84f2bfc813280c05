from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve

from tlcli.results.precision_recall import draw_precision_recall_curves, precision_recall
from tlcli.results.records import EvalReport


@given(images=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_precision_recall__is_sklearns_and_its_steps_have_the_area_of_ap(
    images: list[tuple[int, bool]],
) -> None:
    scores = np.array([float(score) for score, _ in images])
    has_class = np.array([has for _, has in images])
    has_class[0] = True

    recall, precision = precision_recall(scores, has_class)

    expected_precision, expected_recall, _ = precision_recall_curve(has_class, scores)
    np.testing.assert_allclose(precision, expected_precision[-2::-1])
    np.testing.assert_allclose(recall, expected_recall[-2::-1])
    area = (np.diff(recall, prepend=0) * precision).sum()
    assert area == pytest.approx(average_precision_score(has_class, scores))


def drawn(path: Path, *, classes: int, is_bare: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    labels = (rng.random((20, classes)) < 0.4) & (not is_bare)
    names = ["名前", "$x_1$", *(f"c{number}" for number in range(classes - 2))][:classes]
    report = EvalReport(
        kind="multi-label",
        split="test",
        num_images=20,
        metrics={"map": float("nan") if is_bare else 0.5},
        intervals={},
        per_class=[{"class": name, "ap": None if is_bare else 0.5} for name in names],
    )
    draw_precision_recall_curves(
        path, labels=labels, scores=rng.random(labels.shape), report=report
    )
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def colours(picture: np.ndarray) -> int:
    """Count pixels that are neither black, white nor grey."""
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return int((spread > 40).sum())


@pytest.mark.filterwarnings("error")
def test_draw__few_classes_in_colour_many_in_grey_none_without_curves(tmp_path: Path) -> None:
    assert colours(drawn(tmp_path / "few.png", classes=3)) > 500
    assert colours(drawn(tmp_path / "many.png", classes=30)) == 0
    assert colours(drawn(tmp_path / "bare.png", classes=2, is_bare=True)) == 0
