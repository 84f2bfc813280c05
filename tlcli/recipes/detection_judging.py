"""A detector judged on a split: COCO's numbers with intervals, and the files that show why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.table import some_names
from tlcli.engine.box_metrics import BoxEvaluation, detection_report, evaluate_boxes
from tlcli.engine.coco_engines import coco_engine
from tlcli.engine.detection import predict_boxes
from tlcli.errors import DataError
from tlcli.recipes.box_data import BoxReader
from tlcli.recipes.detection_gallery import draw_galleries
from tlcli.results.coco_documents import BoxPredictions
from tlcli.results.detection_files import write_detection_evaluation
from tlcli.results.records import EvalReport

_DROPPED = -1


@dataclass(frozen=True, kw_only=True)
class BoxJudge:
    """Judges detectors on the splits of one table.

    Args:
        reader: Of the data.
        class_names: What the labels 1, 2, ... of the model mean; the classes of the data are found
            there by name.
        threads: How many images are worked on at once.
        check_stop: Called between images.

    Raises:
        DataError: If the data has a class that the model does not know.
    """

    reader: BoxReader
    class_names: Sequence[str]
    threads: int
    check_stop: Callable[[], None] = lambda: None

    def predictions(self, model: nn.Module, split: str) -> BoxPredictions:
        """Return what a model finds in the images of a split, with the user's ids."""
        table = self.reader.table
        categories = category_ids_of_labels(table, split, class_names=self.class_names)
        samples = self.reader.samples(split)
        found = list(
            self.reader.talk.track(
                predict_boxes(
                    model,
                    samples,
                    runtime=self.reader.runtime,
                    threads=self.threads,
                    check_stop=self.check_stop,
                ),
                label=split,
                num_images=len(samples),
            )
        )
        image_ids = table.images_of(split)["image_id"].to_numpy()
        labels = np.concatenate([one.labels.numpy() for one in found])
        ids = np.repeat(image_ids, [len(one.labels) for one in found])
        is_wanted = categories[labels] != _DROPPED
        return BoxPredictions(
            image_ids=ids[is_wanted],
            category_ids=categories[labels][is_wanted],
            boxes=np.concatenate([one.boxes.numpy() for one in found])[is_wanted],
            scores=np.concatenate([one.scores.numpy() for one in found])[is_wanted],
        )

    def evaluation(self, model: nn.Module, split: str) -> tuple[BoxEvaluation, BoxPredictions]:
        """Return how well a model does on a split, and what it found."""
        predictions = self.predictions(model, split)
        truth = self.reader.table.ground_truth(split)
        return evaluate_boxes(truth, predictions, engine=coco_engine("auto")), predictions

    def metrics(self, model: nn.Module, split: str) -> dict[str, float]:
        """Return those of the twelve numbers that have ground truth."""
        evaluation, _ = self.evaluation(model, split)
        return {name: value for name, value in evaluation.metrics.items() if not np.isnan(value)}


def category_ids_of_labels(
    table: BoxTable, split: str, *, class_names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return the user's category id for every label of a model, -1 where the data has none.

    Raises:
        DataError: If the split has boxes of a class that the model does not know.
    """
    boxes, known_names = table.counts()[split]["per_class"], set(class_names)
    unknown = [name for name, count in boxes.items() if count and name not in known_names]
    if unknown:
        shared = sum(count > 0 for count in boxes.values()) - len(unknown)
        raise DataError(
            f"{len(unknown)} of the {len(unknown) + shared} classes with boxes are unknown to the "
            f"model: {some_names(unknown, most=5)}. It knows {some_names(class_names, most=5)}. "
            "Rename the categories, or fine-tune a detector on this data."
        )
    id_of = {category.name: category.id for category in table.categories}
    return np.array([_DROPPED, *(id_of.get(name, _DROPPED) for name in class_names)])


def judge_boxes(judge: BoxJudge, model: nn.Module, *, split: str, folder: Path) -> EvalReport:
    """Evaluate a detector on a split and write numbers, curves and pictures to `folder`."""
    evaluation, predictions = judge.evaluation(model, split)
    report = detection_report(evaluation, split=split, seed=judge.reader.runtime.seed)
    table = judge.reader.table
    write_detection_evaluation(
        folder,
        report=report,
        predictions=predictions,
        ground_truth=table.ground_truth(split),
        curves=evaluation.curves(),
    )
    draw_galleries(folder, evaluation=evaluation, predictions=predictions, table=table, split=split)
    return report
