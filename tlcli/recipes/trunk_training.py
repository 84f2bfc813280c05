"""A training whose frozen part, or whose reading, is done apart: once per view, and kept."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

import torch

from tlcli.data.augment import TrainTransform
from tlcli.data.loaders import ImageBatch, Reference, ordered_batches
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.table import ImageTable
from tlcli.engine.cpu_memory import available_cores
from tlcli.engine.runtime import Runtime
from tlcli.engine.training_state import TrainingState
from tlcli.engine.view_pass import ViewSeconds
from tlcli.models.boundary import NoBoundaryError, SplitNetwork
from tlcli.models.staged import StagedModel
from tlcli.models.tail_model import TailModel
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.batch_reader import in_groups
from tlcli.recipes.finetune_job import Job
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_phase import PhaseStart, PhaseValues
from tlcli.recipes.trunk_places import PIXELS
from tlcli.recipes.trunk_rows import RowCounts, Views
from tlcli.recipes.trunk_views import RunViews

B = TypeVar("B")

_KEPT = {"off": "not kept", "ram": "kept in memory", "disk": "kept on disk"}


class TrunkTraining:
    """Batches of a training and of its evaluations, phase by phase.

    Where a phase has a frozen part in front, batches hold what that makes of the images, and
    `model` and `judged` take these values; else batches hold images, kept or read, and they take
    those.

    Args:
        job: Of the run.
        state: Of its training; says which phase it is in.
        transform: Makes the views of train images.
        check_stop: Called while values are computed.
        talk: Is told what is kept and why.
    """

    def __init__(
        self,
        job: Job,
        state: TrainingState,
        *,
        transform: TrainTransform,
        check_stop: Callable[[], None],
        talk: Talk,
    ) -> None:
        assert isinstance(state.judged, StagedModel)
        self._job, self._state, self._talk = job, state, talk
        self._transform = transform
        self.model = TailModel(state.model)
        self.judged = self.model if state.ema is None else TailModel(state.judged)
        threads = job.reader.num_workers or available_cores()
        seed = job.config.trunk.view_seed
        self._images = RunViews(job.images.table, transform, seed=seed, threads=threads)
        self._seconds = ViewSeconds()
        self._start = PhaseStart(
            job=job,
            images=self._images,
            transform=transform,
            check_stop=check_stop,
            seconds=self._seconds,
            talk=talk,
        )
        self._number: int | None = None
        self._phase: PhaseValues | None = None
        self._counts: list[RowCounts] = []
        self._notes: list[dict[str, Any]] = []

    @property
    def table(self) -> ImageTable:
        """The images."""
        return self._job.reader.table

    @property
    def preprocessing(self) -> Preprocessing:
        """The pixels that the network wants."""
        return self._job.reader.preprocessing

    @property
    def runtime(self) -> Runtime:
        """Device, precision and seed."""
        return self._job.runtime

    def steps(self, epoch: int, done: int) -> Iterator[list[ImageBatch]]:
        """Yield the batches of each step of an epoch that is left after `done` ones."""
        phase, train = self._enter(), self._job.config.train
        is_balanced = train.sampler == "balanced"
        if phase is None:
            _, steps_of_images = self._job.reader.training(
                transform=self._transform,
                grad_accum_steps=train.grad_accum_steps,
                is_balanced=is_balanced,
                views=self._job.config.trunk.views or 0,
                view_seed=self._images.seed,
            )
            yield from self._timed(steps_of_images(epoch, done), "tail")
            return
        batches = self._job.reader.train_references(
            epoch, is_balanced=is_balanced, views=phase.views
        )
        whole = sorted({reference for batch in batches for reference in batch}, key=_view_first)
        with with_remedy():
            label = f"epoch {epoch + 1}: {self._what(phase)}"
            phase.rows.prepare(self._images.train(whole), label=label)
        left = batches[done * train.grad_accum_steps :]
        tracked = self._talk.track(
            self._train_batches(phase, left),
            label=f"epoch {epoch + 1}",
            num_images=sum(map(len, left)),
        )
        yield from self._timed(in_groups(tracked, size=train.grad_accum_steps), "tail")

    def evaluation(self, split: str) -> Iterator[ImageBatch]:
        """Yield every image of a split once, in the order of its rows."""
        phase = self._enter()
        if phase is None:
            yield from self._timed(self._job.reader.evaluation(split), "evaluation")
            return
        views = self._images.plain(split)
        with with_remedy():
            phase.rows.prepare(views, label=f"{split}: {self._what(phase)}")
        tracked = self._talk.track(
            self._ordered_batches(phase, split, views), label=split, num_images=len(views)
        )
        yield from self._timed(tracked, "evaluation")

    def close(self) -> None:
        """Let go of the values of the present phase; they can be asked for again."""
        if self._phase:
            self._phase.rows.release()
        self._number, self._phase = None, None

    def record(self) -> dict[str, Any]:
        """Return `trunk_cache` of `run.json`: what this sitting kept and why, and what it cost.

        Seconds of decoding and of trunks are those of all threads together, and nought where the
        whole network is shown files. What was saved follows from the views that were computed,
        by this run or by those that kept them; None where that is not known.
        """
        saved = [counts.saved_seconds for counts in self._counts]
        known = [seconds for seconds in saved if seconds is not None]
        total = sum(known) if len(known) == len(saved) else None
        return {
            "hits": sum(counts.hits for counts in self._counts),
            "misses": sum(counts.misses for counts in self._counts),
            "bytes": sum(counts.bytes for counts in self._counts),
            "seconds": {**asdict(self._seconds), "saved": total},
            "phases": self._notes,
        }

    def _timed(self, batches: Iterable[B], what: Literal["tail", "evaluation"]) -> Iterator[B]:
        """Yield batches, and add up how long what takes them works on each."""
        for batch in batches:
            started = time.perf_counter()
            yield batch
            spent = getattr(self._seconds, what) + time.perf_counter() - started
            setattr(self._seconds, what, spent)

    def _train_batches(
        self, phase: PhaseValues, batches: Sequence[list[Reference]]
    ) -> Iterator[ImageBatch]:
        targets = torch.from_numpy(self._job.reader.targets("train"))
        for batch in batches:
            indices = torch.tensor([index for index, _ in batch])
            with with_remedy():
                values = phase.values(self._images.train(batch))
            yield ImageBatch(images=values, targets=targets[indices], indices=indices)

    def _ordered_batches(
        self, phase: PhaseValues, split: str, views: Views
    ) -> Iterator[ImageBatch]:
        targets = torch.from_numpy(self._job.reader.targets(split))
        for batch in ordered_batches(len(views), batch_size=self._job.reader.batch_size):
            indices = torch.tensor([index for index, _ in batch])
            with with_remedy():
                values = phase.values(views.part(indices.numpy()))
            yield ImageBatch(images=values, targets=targets[indices], indices=indices)

    def _what(self, phase: PhaseValues) -> str:
        """Return what is made of the images, for the progress bar."""
        return "frozen part" if phase.cut else "images"

    def _enter(self) -> PhaseValues | None:
        """Let the models take what batches of the present phase hold."""
        number = self._state.phase or 0
        if number != self._number:
            self.close()
            self._number, self._phase = number, self._begin(number)
        phase = self._phase
        cut = phase.cut if phase else None
        self.model.enter(cut.split if cut else None)
        if self.judged is not self.model:
            self.judged.enter(cut.judged if cut else None)
        return phase

    def _begin(self, number: int) -> PhaseValues | None:
        """Begin a phase and tell what is kept of its images."""
        try:
            phase = self._start.begin(number, model=self._state.model, judged=self.judged.staged)
        except NoBoundaryError as error:
            self._talk.note(f"Frozen part: not kept ({error}).")
            return self._begin_pixels(number, why=str(error))
        assert phase.cut is not None
        self._take_note(number, phase, split=phase.cut.split)
        kept = _KEPT[phase.choice.tier]
        if phase.choice.tier != "off":
            kept += f" in {_name(phase.dtype)}"
        layers = ", ".join(dict.fromkeys(phase.cut.split.layers))
        self._talk.note(f"Frozen part up to {layers}: {kept} ({phase.choice.why}).")
        if phase.images:
            self._talk.note(f"Images: {_KEPT[phase.images.tier]} ({phase.images.why}).")
        elif self._job.config.trunk.image_cache != "off":
            self._talk.note(
                "Images: not kept, as what the frozen part makes of them is; --image-cache has no "
                "effect in this phase."
            )
        if self._job.config.train.mixup or self._job.config.train.cutmix:
            self._talk.note(
                "Mixup and CutMix mix what the frozen part makes of the pictures, not the pictures."
            )
        return phase

    def _begin_pixels(self, number: int, *, why: str) -> PhaseValues | None:
        """Begin a phase in which the whole network is run."""
        phase = self._start.begin_pixels(number)
        if phase is None:
            self._notes.append({"phase": number, "kept": "off", "why": why})
            return None
        self._take_note(number, phase, split=None)
        self._talk.note(f"Images: {_KEPT[phase.choice.tier]} ({phase.choice.why}).")
        return phase

    def _take_note(self, number: int, phase: PhaseValues, *, split: SplitNetwork | None) -> None:
        """Remember what `run.json` says of a phase."""
        images = phase.images if phase.cut else phase.choice
        tier = phase.choice.tier if phase.cut else "off"
        self._counts.append(phase.rows.counts)
        self._notes.append(
            {
                "phase": number,
                "kept": tier,
                "why": phase.choice.why,
                "dtype": None if tier == "off" else _name(phase.dtype),
                "images_kept": images.tier if images else "off",
                "boundary": list(split.layers) if split else [PIXELS],
                "shapes": [list(shape) for shape in split.shapes] if split else [],
                "views": phase.views,
            }
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _view_first(reference: Reference) -> tuple[int, int]:
    return reference[1], reference[0]
