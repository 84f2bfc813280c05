"""Computing the rows that a store of features lacks, and checking those it has."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tlcli.data.store.tensor_store import ShardPlan, TensorStore, cast_checked
from tlcli.engine.distributed import Workers
from tlcli.engine.extraction import (
    Features,
    in_order,
    joined,
    largest_deviation,
    single_threaded_operators,
)
from tlcli.errors import DataError
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.extraction_job import ExtractionJob
from tlcli.recipes.talk import Talk

_SHARD_ROWS = 512
"""What at most is lost when a worker is killed."""
_SMALL_SHARD_ROWS = 32
"""Few images are cut into eight shards, but not into smaller ones than this."""
_SHARDS_OF_FEW = 8
_SHARD_BYTES = 256 << 20
_TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-4}
"""Largest relative deviation of a row computed again, by the dtype it is stored in.

Rounding to the dtype, and what another composition of a batch changes in the last bits."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of the shards a process computes: every `count`-th from `index` on."""

    index: int
    count: int


EVERYTHING = Share(index=0, count=1)


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """What one thread computed: features of rows of the items."""

    indices: torch.Tensor
    features: Features


def plan_shards(job: ExtractionJob, store: TensorStore) -> tuple[ShardPlan, ...]:
    """Return all shards that the store lacks, the same in every process.

    Their size follows from the list of images alone, never from what is computed already: else a
    run that goes on would cut other shards than the one before it.
    """
    size = {"float16": 2, "bfloat16": 2, "float32": 4}[job.config.features.dtype]
    row_bytes = size * sum(int(np.prod(shape)) for shape in job.dims.values())
    share = max(_SMALL_SHARD_ROWS, -(-len(job.ids) // _SHARDS_OF_FEW))
    rows = max(1, min(_SHARD_ROWS, share, _SHARD_BYTES // row_bytes))
    return store.plan(job.ids, rows_per_shard=rows)


def compute_shards(
    job: ExtractionJob,
    store: TensorStore,
    plans: Sequence[ShardPlan],
    *,
    talk: Talk,
    check_stop: Callable[[], None],
) -> None:
    """Compute and write shards one after the other.

    Raises:
        DataError: An image cannot be read, or a feature does not fit the dtype.
        MachineError: The disk refuses.
    """
    batches = [
        [plan.positions[start : start + job.batch_size] for start in _starts(plan, job)]
        for plan in plans
    ]
    results = in_order(
        lambda rows: _embed(job, rows),
        itertools.chain.from_iterable(batches),
        threads=job.threads,
        check_stop=check_stop,
    )
    tracked = talk.track(results, label="features", num_images=rows_of(plans))
    with single_threaded_operators():
        for plan, own in zip(plans, batches, strict=True):
            parts = [batch.features for batch in itertools.islice(tracked, len(own))]
            store.write(plan, joined(parts))


def verify_rows(job: ExtractionJob, store: TensorStore, *, share: float, talk: Talk) -> None:
    """Compute a random share of the rows again and compare them with the stored ones.

    Raises:
        DataError: A row deviates by more than rounding explains.
    """
    generator = np.random.Generator(np.random.Philox(job.config.seed))
    count = max(1, round(share * len(job.ids)))
    chosen = np.sort(generator.choice(len(job.ids), size=count, replace=False))
    batches = np.split(chosen, range(job.batch_size, count, job.batch_size))
    worst = 0.0
    with single_threaded_operators():
        for batch in in_order(
            lambda rows: _embed(job, rows), batches, threads=job.threads, check_stop=lambda: None
        ):
            stored = store.read(job.ids[batch.indices.numpy()])
            for name, fresh in batch.features.items():
                worst = max(worst, largest_deviation(stored[name], fresh.float()))
    limit = _TOLERANCE[job.config.features.dtype]
    found = f"{count} of {len(job.ids)} rows computed again deviate by at most {worst:.1e}"
    if not worst <= limit:
        raise DataError(
            f"--verify: {found}, more than the {limit:.1e} that rounding explains. The store "
            f"'{store.path}' cannot be trusted: compute it again with --overwrite."
        )
    talk.note(f"Verified: {found} (relative).")


def share_of(shard: tuple[int, int] | None, *, workers: Workers) -> Share:
    """Combine `--shard i/n` (counted from 1) with the processes of torchrun."""
    number, count = shard or (1, 1)
    return Share(index=(number - 1) * workers.count + workers.rank, count=count * workers.count)


def _starts(plan: ShardPlan, job: ExtractionJob) -> range:
    return range(0, len(plan.positions), job.batch_size)


def _embed(job: ExtractionJob, rows: NDArray[np.intp]) -> FeatureBatch:
    with with_remedy():
        features = job.embedder([job.request(int(row)) for row in rows])
    dtype = getattr(torch, job.config.features.dtype)
    cast = {name: cast_checked(tensor, dtype) for name, tensor in features.items()}
    return FeatureBatch(indices=torch.as_tensor(rows), features=cast)


def rows_of(plans: Sequence[ShardPlan]) -> int:
    """Return how many rows are in shards."""
    return sum(len(plan) for plan in plans)


def rest_of(plans: Sequence[ShardPlan], store: TensorStore, *, share: Share) -> list[ShardPlan]:
    """Return the shards of a share that are not written yet."""
    own = plans[share.index :: share.count]
    return [plan for plan in own if not store.is_written(plan)]
