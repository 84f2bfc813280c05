import numpy as np
import pytest

from tests.engine.box_sets import draw_box_set, without_detections
from tlcli.engine.box_matches import match_boxes
from tlcli.engine.box_quality import best_score, image_quality
from tlcli.results.coco_documents import BoxPredictions


def box_entry(number: int, image_id: int, box: list[float], *, is_crowd: int = 0) -> dict:
    return {
        **{"id": number, "image_id": image_id, "category_id": 1, "bbox": box},
        **{"area": box[2] * box[3], "iscrowd": is_crowd},
    }


DOCUMENT = {
    "info": {},
    "images": [{"id": i} for i in (1, 2, 3, 4)],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    "annotations": [
        box_entry(1, 1, [0.0, 0.0, 10.0, 10.0]),
        box_entry(2, 1, [50.0, 0.0, 10.0, 10.0]),
        box_entry(3, 1, [100.0, 0.0, 90.0, 90.0], is_crowd=1),
        box_entry(4, 2, [0.0, 0.0, 10.0, 10.0]),
    ],
}
ROWS = np.array(
    [
        (1, 1, 0, 0, 10, 10, 0.9),  # right
        (1, 1, 51, 0, 10, 10, 0.4),  # right, but of low score
        (1, 1, 110, 5, 20, 20, 0.8),  # on a crowd
        (1, 1, 0, 1, 10, 10, 0.7),  # a second time: wrong
        (2, 2, 0, 0, 10, 10, 0.9),  # of another class: wrong
        (4, 1, 0, 0, 10, 10, 0.6),  # where nothing is: wrong
    ]
)
FOUND = BoxPredictions(
    image_ids=ROWS[:, 0].astype(np.int64),
    category_ids=ROWS[:, 1].astype(np.int64),
    boxes=ROWS[:, 2:6].astype(np.float64),
    scores=ROWS[:, 6].astype(np.float64),
)


def test_image_quality__counts_by_hand() -> None:
    quality = image_quality(match_boxes(DOCUMENT, FOUND))
    assert quality.truths.tolist() == [2, 1, 0, 0]
    assert quality.right.tolist() == [1, 0, 0, 0]
    assert quality.wrong.tolist() == [1, 1, 0, 1]
    assert quality.f1().tolist() == [2 * 1 / (2 + 1 + 1), 0.0, 1.0, 0.0]


def test_image_quality__lower_threshold_finds_more() -> None:
    quality = image_quality(match_boxes(DOCUMENT, FOUND), min_score=0.3)
    assert quality.right.tolist() == [2, 0, 0, 0]
    assert quality.f1()[0] == pytest.approx(4 / 5)


def test_image_quality__low_scores_change_no_match_of_the_others() -> None:
    document, found = draw_box_set(
        seed=2, num_images=5, num_classes=2, num_truths=40, num_detections=300
    )
    kept = found.scores >= 0.5
    confident = BoxPredictions(
        image_ids=found.image_ids[kept],
        category_ids=found.category_ids[kept],
        boxes=found.boxes[kept],
        scores=found.scores[kept],
    )
    first = image_quality(match_boxes(document, found))
    second = image_quality(match_boxes(document, confident), min_score=0.0)
    assert first.right.sum() > 0
    np.testing.assert_array_equal(first.f1(), second.f1())


def test_image_quality__nothing_detected() -> None:
    quality = image_quality(match_boxes(DOCUMENT, without_detections()))
    assert quality.f1().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_best_score__highest_f1_by_trying_all() -> None:
    for seed in range(5):
        document, found = draw_box_set(
            seed=seed, num_images=6, num_classes=3, num_truths=20, num_detections=40
        )
        matches = match_boxes(document, found)
        tried = {}
        for score in np.unique(found.scores):
            quality = image_quality(matches, min_score=score)
            right, wrong = quality.right.sum(), quality.wrong.sum()
            tried[score] = 2 * right / (quality.truths.sum() + right + wrong)
        assert tried[best_score(matches)] == max(tried.values())


def test_best_score__nothing_detected() -> None:
    assert best_score(match_boxes(DOCUMENT, without_detections())) == 0.5
