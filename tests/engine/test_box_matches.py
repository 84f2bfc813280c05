from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.box_sets import draw_box_set, plain_pycocotools, without_detections
from tlcli.engine.box_matches import match_boxes


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_images=st.integers(1, 4),
    num_classes=st.integers(1, 3),
    num_truths=st.integers(1, 60),
    num_detections=st.integers(1, 500),
    crowd_share=st.sampled_from([0.0, 0.3]),
    has_ties=st.booleans(),
)
def test_match_boxes__as_each_image_of_pycocotools(**values: Any) -> None:
    document, found = draw_box_set(**values)
    matches = match_boxes(document, found)
    evaluator = plain_pycocotools(document, found.to_coco())
    num_areas, num_images = matches.in_range.shape[1], matches.num_images
    num_checked = 0
    for position, image in enumerate(evaluator.evalImgs):
        if image is None:
            continue
        k, rest = divmod(position, num_areas * num_images)
        area, i = divmod(rest, num_images)
        own = np.flatnonzero((matches.classes == k) & (matches.images == i))
        np.testing.assert_array_equal(matches.rows[own] + 1, image["dtIds"])
        np.testing.assert_array_equal(matches.ranks[own], np.arange(len(own)))
        np.testing.assert_array_equal(matches.matched[own, area].T, image["dtMatches"] > 0)
        np.testing.assert_array_equal(~matches.counted(own, area=area).T, image["dtIgnore"])
        truths = (matches.truth_classes == k) & (matches.truth_images == i)
        assert (~matches.truth_counts[truths, area]).sum() == image["gtIgnore"].sum()
        num_checked += len(own)
    assert num_checked == num_areas * len(matches.rows)


def test_match_boxes__ordered_by_class_score_and_image() -> None:
    document, found = draw_box_set(
        seed=1, num_images=9, num_classes=3, num_truths=50, num_detections=300, has_ties=True
    )
    matches = match_boxes(document, found)
    keys = zip(
        matches.classes.tolist(),
        (-matches.scores).tolist(),
        matches.images.tolist(),
        matches.ranks.tolist(),
        strict=True,
    )
    listed = list(keys)
    assert listed == sorted(listed)
    np.testing.assert_array_equal(matches.scores, found.scores[matches.rows])


def test_match_boxes__nothing_found_or_nothing_there() -> None:
    document, found = draw_box_set(
        seed=1, num_images=2, num_classes=2, num_truths=5, num_detections=9
    )
    assert match_boxes(document, without_detections()).matched.shape == (0, 4, 10)
    matches = match_boxes({**document, "annotations": []}, found)
    assert matches.matched.shape == (9, 4, 10)
    assert not matches.matched.any()
    assert matches.truth_counts.shape == (0, 4)
