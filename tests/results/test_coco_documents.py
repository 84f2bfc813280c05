import copy
import json

import numpy as np
import pytest

from tlcli.results.coco_documents import BoxPredictions, evaluable_ground_truth


def document(*ids: int) -> dict:
    boxes = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3], "area": 5, "iscrowd": 1}
        for i in ids
    ]
    return {
        "info": {"year": 2017},
        "images": [{"id": 1}],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "a"}],
    }


@pytest.mark.parametrize(
    ("ids", "expected"),
    [((3, 7), [3, 7]), ((0, 7), [1, 2]), ((5, 5), [1, 2]), ((-1, 4), [1, 2]), ((), [])],
)
def test_evaluable_ground_truth__ids_positive_and_unique(
    ids: tuple[int, ...], expected: list[int]
) -> None:
    given = document(*ids)
    before = copy.deepcopy(given)
    made = evaluable_ground_truth(given)
    assert [box["id"] for box in made["annotations"]] == expected
    assert given == before


def test_evaluable_ground_truth__what_is_there_stays() -> None:
    assert evaluable_ground_truth(document(4)) == document(4)


def test_evaluable_ground_truth__missing_is_filled() -> None:
    bare = document()
    del bare["info"]
    bare["annotations"] = [{"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 2.0, 3.0]}]
    made = evaluable_ground_truth(bare)
    assert made["info"] == {}
    assert made["annotations"] == [
        {**bare["annotations"][0], "id": 1, "area": 6.0, "iscrowd": 0},
    ]


def test_to_coco__every_digit_survives_json() -> None:
    random = np.random.default_rng(0)
    predictions = BoxPredictions(
        image_ids=np.array([2**40, 3]),
        category_ids=np.array([1, 90]),
        boxes=random.random((2, 4)) * 1000 / 3,
        scores=random.random(2),
    )
    read = json.loads(json.dumps(predictions.to_coco()))
    assert [entry["image_id"] for entry in read] == [2**40, 3]
    assert [entry["category_id"] for entry in read] == [1, 90]
    np.testing.assert_array_equal([entry["bbox"] for entry in read], predictions.boxes)
    np.testing.assert_array_equal([entry["score"] for entry in read], predictions.scores)


def test_box_predictions__lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 scores, but image ids"):
        BoxPredictions(
            image_ids=np.array([1]),
            category_ids=np.array([1, 2]),
            boxes=np.zeros((2, 4)),
            scores=np.zeros(2),
        )
