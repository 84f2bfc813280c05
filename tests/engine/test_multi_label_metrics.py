import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn import metrics

from tlcli.engine import multi_label_metrics
from tlcli.engine.multi_label_metrics import fast_multi_label_metrics, multi_label_report
from tlcli.errors import DataError, NonFiniteLossError

CLASSES = ["ant", "bee", "cat", "dog"]


def predictions(number: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make logits and labels that have something to do with each other."""
    rng = np.random.default_rng(seed)
    labels = rng.random((number, len(CLASSES))) < (0.6, 0.3, 0.2, 0.4)
    logits = rng.normal(size=labels.shape) + 1.5 * labels - 0.8
    return np.round(logits, 1), labels  # some are equal


def by_sklearn(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute every metric as scikit-learn does, over classes that occur."""
    probs, predicted = 1 / (1 + np.exp(-logits)), logits > 0
    there = labels.any(axis=0)
    aps = [
        metrics.average_precision_score(labels[:, c], logits[:, c]) for c in np.flatnonzero(there)
    ]
    found = {"map": float(np.mean(aps))}
    for average, columns in (("micro", slice(None)), ("macro", there)):
        for name, score in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        ):
            found[f"{average}_{name}"] = score(
                labels[:, columns], predicted[:, columns], average=average, zero_division=0
            )
    found["subset_accuracy"] = metrics.accuracy_score(labels, predicted)
    found["hamming_loss"] = metrics.hamming_loss(labels, predicted)
    losses = [metrics.log_loss(labels[:, c], probs[:, c], labels=[0, 1]) for c in range(4)]
    found["loss"] = float(np.mean(losses))
    return found


@pytest.mark.parametrize("number", [3, 40, 200])
def test_multi_label_report__metrics_are_sklearns(number: int) -> None:
    logits, labels = predictions(number)
    labels[0] = True  # every class occurs

    report = multi_label_report(logits, labels, split="val", classes=CLASSES, resamples=5)

    assert (report.kind, report.split, report.num_images) == ("multi-label", "val", number)
    assert dict(report.metrics) == pytest.approx(by_sklearn(logits, labels))
    assert report.remarks == ()
    fast = fast_multi_label_metrics(logits, labels)
    assert fast == {name: report.metrics[name] for name in ("loss", "map", "micro_f1", "macro_f1")}


def test_multi_label_report__is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes and resamples are looked at some at a time, to bound the memory."""
    logits, labels = predictions(50)
    options = {"split": "val", "classes": CLASSES, "resamples": 40, "seed": 1}
    expected = multi_label_report(logits, labels, **options)
    monkeypatch.setattr(multi_label_metrics, "_RESAMPLES_AT_ONCE", 3)
    monkeypatch.setattr(multi_label_metrics, "_CHUNKS_AT_ONCE", 2)
    monkeypatch.setattr(multi_label_metrics, "_CLASSES_AT_ONCE", 3)
    assert multi_label_report(logits, labels, **options) == expected


def test_multi_label_report__memory_is_that_of_some_logits() -> None:
    """Rankings of all classes, and counts as float64, would take three times the logits more."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1500, 300))
    labels = rng.random(logits.shape) < 0.02
    names = [str(number) for number in range(300)]
    tracemalloc.start()
    multi_label_report(logits, labels, split="val", classes=names, resamples=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * logits.nbytes


def test_multi_label_report__per_class_is_sklearns() -> None:
    logits, labels = predictions(60)
    report = multi_label_report(logits, labels, split="val", classes=CLASSES, resamples=200)

    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, logits > 0)
    for c, row in enumerate(report.per_class):
        assert list(row) == ["class", "support", "ap", "low", "high", "precision", "recall", "f1"]
        ap = metrics.average_precision_score(labels[:, c], logits[:, c])
        assert row["class"] == CLASSES[c]
        assert row["support"] == support[c]
        assert row["ap"] == pytest.approx(ap)
        assert row["low"] < ap < row["high"]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (precision[c], recall[c], f1[c])
        )


def test_multi_label_report__absent_classes_are_named_and_left_out() -> None:
    logits, labels = predictions(30)
    labels[:, 1] = labels[:, 3] = False

    report = multi_label_report(logits, labels, split="test", classes=CLASSES, resamples=20)

    assert dict(report.metrics) == pytest.approx(by_sklearn(logits, labels))
    assert report.remarks == (
        "2 of 4 classes have no image in split 'test' and are left out of map and macro metrics: "
        "'bee', 'dog'.",
    )
    absent = report.per_class[1]
    assert [absent[key] for key in ("support", "ap", "low", "high", "recall", "f1")] == [
        *(0, None, None, None, None, None)
    ]


def test_multi_label_report__a_class_that_is_never_predicted() -> None:
    logits, labels = predictions(30)
    logits[:, 0] = -1.0

    report = multi_label_report(logits, labels, split="val", classes=CLASSES, resamples=20)

    assert report.per_class[0]["precision"] is None
    assert (report.per_class[0]["recall"], report.per_class[0]["f1"]) == (0.0, 0.0)
    assert dict(report.metrics) == pytest.approx(by_sklearn(logits, labels))


def test_multi_label_report__no_image_of_any_class() -> None:
    logits, labels = predictions(10)
    labels[:] = False

    report = multi_label_report(logits, labels, split="val", classes=CLASSES, resamples=20)

    assert report.metrics["hamming_loss"] == (logits > 0).mean()
    assert report.metrics["subset_accuracy"] == (~(logits > 0).any(axis=1)).mean()
    document = report.to_json()
    assert document["metrics"]["map"] is None
    assert document["metrics"]["micro_f1"] is None
    assert document["intervals"]["map"] == [None, None]
    assert document["intervals"]["hamming_loss"][0] is not None


def test_multi_label_report__one_class() -> None:
    logits, labels = predictions(50)
    report = multi_label_report(
        logits[:, :1], labels[:, :1], split="val", classes=["ant"], resamples=20
    )
    assert report.metrics["subset_accuracy"] == 1 - report.metrics["hamming_loss"]
    assert report.metrics["macro_f1"] == report.metrics["micro_f1"]
    assert report.metrics["map"] == report.per_class[0]["ap"]


def test_multi_label_report__half_a_probability_is_no() -> None:
    labels = np.array([[True], [False]])
    report = multi_label_report(np.zeros((2, 1)), labels, split="v", classes=["a"], resamples=2)
    assert report.metrics["hamming_loss"] == 0.5
    assert report.metrics["micro_recall"] == 0.0
    assert report.metrics["map"] == 0.5
    assert report.metrics["loss"] == pytest.approx(np.log(2))


def test_multi_label_report__large_logits_cost_what_they_should() -> None:
    logits, labels = np.array([[800.0, -800.0]]), np.array([[False, False]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fast_multi_label_metrics(logits, labels)
    assert found["loss"] == 400.0


def test_intervals__are_percentiles_of_resampled_images() -> None:
    """Drawn as `classification_report` draws; every resample by scikit-learn."""
    logits, labels = predictions(12, seed=3)
    labels[:, 2] = np.arange(12) == 5  # in two thirds of the resamples only
    random = np.random.Generator(np.random.Philox(9))
    drawn = [random.integers(12, size=12) for _ in range(50)]
    by_hand = [by_sklearn(logits[rows], labels[rows]) for rows in drawn]

    report = multi_label_report(logits, labels, split="val", classes=CLASSES, seed=9, resamples=50)

    for name, interval in report.intervals.items():
        expected = np.quantile([values[name] for values in by_hand], [0.025, 0.975])
        assert interval == pytest.approx(tuple(expected)), name
    aps = [
        metrics.average_precision_score(labels[rows, 2], logits[rows, 2])
        for rows in drawn
        if labels[rows, 2].any()
    ]
    assert len(aps) < 50
    row = report.per_class[2]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(aps, [0.025, 0.975])))


def test_intervals__of_an_independent_set_hold_the_truth() -> None:
    """95 % intervals of 40 sets of 100 images hold the mAP of 20000 nearly always."""
    logits, labels = predictions(20_000, seed=1)
    truth = fast_multi_label_metrics(logits, labels)["map"]
    held = 0
    for part in range(40):
        rows = slice(100 * part, 100 * part + 100)
        report = multi_label_report(
            logits[rows], labels[rows], split="v", classes=CLASSES, resamples=100
        )
        low, high = report.intervals["map"]
        held += low <= truth <= high
    assert held >= 34


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (np.zeros((0, 4)), np.zeros((0, 4), bool), DataError, "There are no images to evaluate"),
        (np.zeros((2, 4)), np.zeros((2, 3), bool), ValueError, "do not fit"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), ValueError, "4 class names for 3 columns"),
        (
            np.array([[0, 0, 0, np.nan], [0, 0, 0, 0]]),
            np.zeros((2, 4), bool),
            NonFiniteLossError,
            "The outputs for 1 of 2 images are NaN or infinite",
        ),
    ],
)
def test_multi_label_report__refuses(
    logits: np.ndarray, labels: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        multi_label_report(logits, labels, split="val", classes=CLASSES)


def test_multi_label_report__one_resample_or_more() -> None:
    logits, labels = predictions(4)
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        multi_label_report(logits, labels, split="val", classes=CLASSES, resamples=0)
