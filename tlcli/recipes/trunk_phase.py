"""What one phase of a training takes its batches from: where the network is cut, what is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.config.trunk import TrunkCache
from tlcli.data.augment import TrainTransform
from tlcli.data.loaders import Inputs
from tlcli.data.store.row_ids import first_appearances
from tlcli.engine.extraction import ImageEmbedder, ViewReader
from tlcli.engine.view_pass import TrunkValues, ViewPass, ViewSeconds
from tlcli.models.boundary import (
    TRIED_IMAGES,
    NoBoundaryError,
    SplitNetwork,
    split_network,
    trunk_share,
)
from tlcli.models.folding import fold_batch_norms
from tlcli.models.pooling import layout_of
from tlcli.models.staged import StagedModel
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.finetune_job import Job
from tlcli.recipes.row_tiers import kept_rows
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_choice import Choice, Demand, choose_tier, storage_dtype, views_of
from tlcli.recipes.trunk_places import PIXELS
from tlcli.recipes.trunk_rows import FedRows, FreshRows, TrunkRows, Views
from tlcli.recipes.trunk_store import key_of_pixels, key_of_trunk, room_for
from tlcli.recipes.trunk_views import RunViews

_CPU_BATCH = 8
"""Images that one thread computes together; see benchmarks/extraction.py."""
_GPU_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the network of a phase is cut."""

    split: SplitNetwork
    judged: SplitNetwork
    """Of the model that is judged, which may be an average."""


@dataclass(frozen=True, kw_only=True)
class PhaseValues:
    """Where the batches of one phase come from, and what they hold."""

    cut: Cut | None
    """Without, they hold pixels."""
    rows: TrunkRows
    choice: Choice
    """Of where what crosses the boundary is kept, or pixels without a boundary."""
    dtype: torch.dtype
    """Of what is kept."""
    images: Choice | None = None
    """Where the pixels are kept of which the frozen part is computed anew each time."""
    views: int
    """Of every train image; 0 is a fresh one in each epoch."""

    def values(self, views: Views) -> Inputs:
        """Return what crosses the boundary, float32, laid out as the trunk gives it, or pixels."""
        taken = self.rows.take(views)
        if self.cut is None:
            return taken[PIXELS]
        split = self.cut.split
        return tuple(
            taken[name].float().contiguous(memory_format=layout)
            for name, layout in zip(split.names, split.formats, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class PhaseStart:
    """All that the beginning of a phase needs of its run."""

    job: Job
    images: RunViews
    transform: TrainTransform
    check_stop: Callable[[], None]
    seconds: ViewSeconds
    """Where the time that trunks take is added up."""
    talk: Talk

    def begin(self, number: int, *, model: StagedModel, judged: StagedModel) -> PhaseValues:
        """Cut the network behind what a phase leaves frozen, and decide where that is kept.

        Args:
            number: Of the phase.
            model: With the stages open that the phase trains.
            judged: The same model, or the average of its weights.

        Raises:
            NoBoundaryError: If it cannot be cut; the text says why.
            ConfigError: If there is no room for what `--trunk-cache` asks for.
        """
        split = split_network(model, example=self._example())
        if self.job.config.train.cutmix:
            self._check_maps(split)
        split_judged = split
        if judged is not model:
            judged.open_stages(model.trained)
            split_judged = split_network(judged, example=self._example())
        source, is_folded = self._trunk_pass(split)
        dtype = self._dtype(source)
        demand = self._demand(
            number,
            row_bytes=split.values_per_image * torch.empty((), dtype=dtype).element_size(),
            trunk_share=trunk_share(model, split, example=self._example()),
        )
        choice, rows = self._rows(split, source, is_folded=is_folded, demand=demand, dtype=dtype)
        views, images = demand.views, None
        if choice.tier == "off":
            views = self.job.config.trunk.views or 0
            if pixels := self.begin_pixels(number):
                rows = FedRows(source=source, pixels=pixels.rows)
                views, images = pixels.views, pixels.choice
        return PhaseValues(
            cut=Cut(split=split, judged=split_judged),
            rows=rows,
            choice=choice,
            dtype=dtype,
            images=images,
            views=views,
        )

    def begin_pixels(self, number: int) -> PhaseValues | None:
        """Decide where the pixels are kept that a phase shows the network, if anywhere.

        Raises:
            ConfigError: If there is no room for what `--image-cache` asks for.
        """
        asked = self.job.config.trunk.image_cache
        if asked == "off":
            return None
        wanted = self.job.reader.preprocessing
        height, width = wanted.input_size
        demand = self._demand(number, row_bytes=wanted.channels * height * width, trunk_share=0.0)
        source = ViewPass(
            read=self._view_reader(),
            compute=lambda pixels: {PIXELS: pixels},
            threads=self.images.threads,
            batch_size=_CPU_BATCH,
            check_stop=self.check_stop,
            seconds=self.seconds,
        )
        choice, rows = self._kept_rows(
            source,
            key=key_of_pixels(wanted),
            demand=demand,
            dtype=torch.uint8,
            asked=asked,
            option="--image-cache",
        )
        return PhaseValues(
            cut=None, rows=rows, choice=choice, dtype=torch.uint8, views=demand.views
        )

    def _check_maps(self, split: SplitNetwork) -> None:
        """Make sure that CutMix can cut what crosses the boundary as it cuts pictures."""
        size = self.job.reader.preprocessing.input_size
        for shape in split.shapes:
            is_map = len(shape) == 3 and layout_of(
                (1, *shape), input_size=size, prefix_tokens=0
            ).positions == (2, 3)
            if not is_map or len(split.shapes) > 1:
                raise NoBoundaryError("--cutmix cuts pictures or maps, and tokens or vectors cross")

    def _demand(self, number: int, *, row_bytes: int, trunk_share: float) -> Demand:
        config, phases = self.job.config, self.job.plan.phases
        starts = [*(phase.start for phase in phases), config.train.epochs]
        epochs = starts[number + 1] - starts[number]
        table = self.images.table
        is_tested = "test" in table.splits and number + 1 == len(phases)
        return Demand(
            train=len(table.part("train")),
            judged=len(table.part("val")),
            tested=len(table.part("test")) if is_tested else 0,
            epochs=epochs,
            views=views_of(epochs, views=config.trunk.views, is_random=self.images.is_random),
            row_bytes=row_bytes,
            trunk_share=trunk_share,
        )

    def _rows(
        self,
        split: SplitNetwork,
        source: ViewPass,
        *,
        is_folded: bool,
        demand: Demand,
        dtype: torch.dtype,
    ) -> tuple[Choice, TrunkRows]:
        """Decide where the values of a trunk are kept."""
        key = key_of_trunk(
            split,
            backbone=self.job.backbone,
            runtime=self.job.runtime,
            dtype=str(dtype).removeprefix("torch."),
            is_folded=is_folded,
        )
        return self._kept_rows(
            source,
            key=key,
            demand=demand,
            dtype=dtype,
            asked=self.job.config.trunk.trunk_cache,
            option="--trunk-cache",
        )

    def _kept_rows(
        self,
        source: ViewPass,
        *,
        key: Mapping[str, Any],
        demand: Demand,
        dtype: torch.dtype,
        asked: TrunkCache,
        option: str,
    ) -> tuple[Choice, TrunkRows]:
        """Decide where values are kept."""
        options, limit = self.job.config.trunk, self.job.config.trunk.limit_bytes
        wanted = self._all_views(demand) if asked != "off" else []
        room = room_for(
            key,
            views=wanted if asked != "ram" else [],
            row_bytes=demand.row_bytes,
            limit=limit,
            option=option,
            talk=self.talk,
        )
        choice = choose_tier(
            asked,
            demand=demand,
            fits=room.is_enough,
            is_stored=bool(wanted) and not room.missing,
            limit=options.cache_limit,
        )
        if choice.tier == "off":
            return choice, FreshRows(source=source)
        rows = kept_rows(
            choice.tier,
            source=source,
            key=key,
            room=room,
            dtype=dtype,
            row_bytes=demand.row_bytes,
            expected=sum(len(first_appearances(one.ids)) for one in wanted),
            limit=limit,
            talk=self.talk,
        )
        return choice, rows

    def _all_views(self, demand: Demand) -> list[Views]:
        """Return all views that a phase keeps."""
        count = range(demand.train)
        train = [self.images.train([(row, view) for row in count]) for view in range(demand.views)]
        judged = ["val", "test"] if demand.tested else ["val"]
        return [*train, *map(self.images.plain, judged)]

    def _trunk_pass(self, split: SplitNetwork) -> tuple[ViewPass, bool]:
        """Return what computes values, and whether BatchNorms are folded in it."""
        runtime = self.job.runtime
        trunk, is_folded = self._trunk(split)
        extractor = TrunkValues(trunk, names=split.names)
        embedder = ImageEmbedder(extractor=extractor, read=self._view_reader(), runtime=runtime)
        return ViewPass(
            read=embedder.read,
            compute=embedder.features,
            threads=self.images.threads,
            batch_size=_CPU_BATCH if runtime.device.type == "cpu" else _GPU_BATCH,
            check_stop=self.check_stop,
            seconds=self.seconds,
        ), is_folded

    def _view_reader(self) -> ViewReader:
        return ViewReader(
            preprocessing=self.job.reader.preprocessing,
            augmentation=self.transform,
            seed=self.images.seed,
        )

    def _trunk(self, split: SplitNetwork) -> tuple[nn.Module, bool]:
        """Return the trunk, its BatchNorms folded if they may be."""
        runtime = self.job.runtime
        if not self.job.config.trunk.fold_norm or runtime.amp_dtype is not None:
            return split.trunk, False
        example = self._example()[: TRIED_IMAGES - 1].cpu()
        folded = fold_batch_norms(split.trunk.cpu(), example=example)
        runtime.place(folded.network)
        runtime.place(self.job.model)
        return (folded.network, True) if folded.folded else (split.trunk, False)

    def _example(self) -> Tensor:
        """Return a few random pictures where the network is."""
        wanted = self.job.reader.preprocessing
        shape = (TRIED_IMAGES, wanted.channels, *wanted.input_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return self.job.runtime.images(noise)

    def _dtype(self, source: ViewPass) -> torch.dtype:
        """Return the type in which values are kept, by those of the first images where it is open.

        Raises:
            DataError: If these cannot be read.
        """
        asked, computed = self.job.config.trunk.cache_dtype, self.job.runtime.amp_dtype
        if asked != "auto":
            dtype: torch.dtype = getattr(torch, asked)
            return dtype
        trial = replace(source, seconds=ViewSeconds())
        with with_remedy():
            values = trial.values(self.images.plain("train").requests[:_CPU_BATCH]).values()
        largest = max(float(value.abs().max()) for value in values)
        return storage_dtype(largest, computed=computed)
