"""The frozen part of one phase of a training: where the network is cut, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.data.augment import TrainTransform
from tlcli.engine.extraction import ImageEmbedder
from tlcli.engine.trunk_pass import TrunkPass, TrunkSeconds, TrunkValues
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
from tlcli.recipes.finetune_job import Job
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_choice import Choice, Demand, choose_tier, views_of
from tlcli.recipes.trunk_rows import (
    FreshRows,
    KeptRows,
    StoredTrunkRows,
    TrunkRows,
    Views,
)
from tlcli.recipes.trunk_store import key_of_trunk, open_store, room_for
from tlcli.recipes.trunk_views import RunViews

_CPU_BATCH = 8
"""Images that one thread computes together; see benchmarks/extraction.py."""
_GPU_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class PhaseTrunk:
    """How the frozen part of one phase is computed."""

    split: SplitNetwork
    judged: SplitNetwork
    """Of the model that is judged, which may be an average."""
    rows: TrunkRows
    choice: Choice
    views: int
    """Of every train image; 0 is a fresh one in each epoch."""

    def values(self, views: Views) -> tuple[Tensor, ...]:
        """Return what crosses the boundary, float32, laid out as the trunk gives it."""
        taken = self.rows.take(views)
        return tuple(
            taken[name].float().contiguous(memory_format=layout)
            for name, layout in zip(self.split.names, self.split.formats, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class PhaseStart:
    """All that the beginning of a phase needs of its run."""

    job: Job
    images: RunViews
    transform: TrainTransform
    check_stop: Callable[[], None]
    seconds: TrunkSeconds
    """Where the time that trunks take is added up."""
    talk: Talk

    def begin(self, number: int, *, model: StagedModel, judged: StagedModel) -> PhaseTrunk:
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
        demand = self._demand(number, model, split)
        choice, rows = self._rows(split, demand=demand)
        asked = self.job.config.trunk.views or 0
        return PhaseTrunk(
            split=split,
            judged=split_judged,
            rows=rows,
            choice=choice,
            views=asked if choice.tier == "off" else demand.views,
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

    def _demand(self, number: int, model: StagedModel, split: SplitNetwork) -> Demand:
        config, phases = self.job.config, self.job.plan.phases
        starts = [*(phase.start for phase in phases), config.train.epochs]
        epochs = starts[number + 1] - starts[number]
        itemsize = torch.empty((), dtype=self._dtype).element_size()
        return Demand(
            train=len(self.images.table.part("train")),
            judged=len(self.images.table.part("val")),
            epochs=epochs,
            views=views_of(epochs, views=config.trunk.views, is_random=self.images.is_random),
            row_bytes=split.values_per_image * itemsize,
            trunk_share=trunk_share(model, split, example=self._example()),
        )

    def _rows(self, split: SplitNetwork, *, demand: Demand) -> tuple[Choice, TrunkRows]:
        """Decide where values are kept."""
        options, limit = self.job.config.trunk, self.job.config.trunk.limit_bytes
        trunk, is_folded = self._trunk_pass(split)
        key = self._key(split, is_folded=is_folded)
        wanted = self._all_views(demand.views) if options.trunk_cache in ("auto", "disk") else []
        room = room_for(key, views=wanted, row_bytes=demand.row_bytes, limit=limit)
        choice = choose_tier(
            options.trunk_cache, demand=demand, fits=room.is_enough, limit=options.cache_limit
        )
        if choice.tier == "off":
            return choice, FreshRows(trunk=trunk)
        if choice.tier == "ram":
            rows = KeptRows(trunk=trunk, dtype=self._dtype, most_bytes=limit, talk=self.talk)
            return choice, rows
        store, end_use = open_store(key, room=room, limit=limit, talk=self.talk)
        return choice, StoredTrunkRows(
            trunk=trunk,
            store=store,
            end_use=end_use,
            dtype=self._dtype,
            row_bytes=demand.row_bytes,
            talk=self.talk,
        )

    def _all_views(self, views: int) -> list[Views]:
        """Return all views that a phase keeps."""
        count = range(len(self.images.table.part("train")))
        train = [self.images.train([(row, view) for row in count]) for view in range(views)]
        return [*train, self.images.plain("val")]

    def _key(self, split: SplitNetwork, *, is_folded: bool) -> dict[str, Any]:
        return key_of_trunk(
            split,
            backbone=self.job.backbone,
            runtime=self.job.runtime,
            dtype=str(self._dtype).removeprefix("torch."),
            is_folded=is_folded,
        )

    def _trunk_pass(self, split: SplitNetwork) -> tuple[TrunkPass, bool]:
        """Return what computes values, and whether BatchNorms are folded in it."""
        runtime = self.job.runtime
        trunk, is_folded = self._trunk(split)
        return TrunkPass(
            embedder=ImageEmbedder(
                extractor=TrunkValues(trunk, names=split.names),
                preprocessing=self.job.reader.preprocessing,
                augmentation=self.transform,
                seed=runtime.seed,
                runtime=runtime,
            ),
            threads=self.images.threads,
            batch_size=_CPU_BATCH if runtime.device.type == "cpu" else _GPU_BATCH,
            check_stop=self.check_stop,
            seconds=self.seconds,
        ), is_folded

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

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.job.config.trunk.cache_dtype)
        return dtype
