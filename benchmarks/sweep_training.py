"""Train a small model of every family for two steps on the CPU, as `tlcli finetune` would place it.

    python benchmarks/sweep_training.py [PATTERN] [--plain]

Other sweeps look at shapes; this one runs the backward pass for real, in channels-last memory
format where `tlcli` chooses that, each model in a child process, as a fault of PyTorch may end it.
`--plain` takes channels-last for all and shows which need the other one. Printed is every model
that fails, with the signal that ended it or the error, and how many do not.
"""

import argparse
import fnmatch
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from sweep_models import CLASSES, build, first_line, is_small, smallest_of_each_family
from torch.nn import functional as F

from tlcli.engine.runtime import choose_runtime
from tlcli.engine.tasks import Batch
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.staged import StagedModel
from tlcli.models.unfreezing import Phase
from tlcli.recipes.memory_format import place_for_training
from tlcli.results.records import EpochReport

MOST_SECONDS = 600
B = TypeVar("B", bound=Batch)


class Silent:
    """Talk to nobody."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def track(self, batches: Iterable[B], *, label: str, num_images: int) -> Iterator[B]:
        """Pass batches on."""
        return iter(batches)

    def epoch(self, report: EpochReport, *, epochs: int, is_best: bool) -> None:
        """Say nothing."""


def end_of(name: str, *, is_plain: bool) -> str:
    """Train in a child process; return what went wrong, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(MOST_SECONDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        try:
            train(name, is_plain=is_plain)
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {first_line(error)}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return signal.Signals(status).name if os.WIFSIGNALED(status) else told


def train(name: str, *, is_plain: bool) -> None:
    """Take two steps with random weights and pictures."""
    torch.set_num_threads(1)
    backbone = build(name, device="cpu")
    replace_heads(
        backbone.network, head_names=backbone.head_names, num_classes=CLASSES, spec=HeadSpec()
    )
    model = StagedModel(backbone.network, stages=backbone.stages)
    runtime = choose_runtime("cpu", amp=None, amp_dtype="auto", channels_last=True, seed=0)
    if is_plain:
        runtime.place(model)
    else:
        phases = [Phase(start=0, trained=tuple(stage.name for stage in model.stages))]
        runtime = place_for_training(runtime, model, phases=phases, talk=Silent())
    images = runtime.images(torch.randn(3, 3, *backbone.preprocessing.input_size))
    for _ in range(2):
        loss = F.cross_entropy(model.train()(images), torch.zeros(3, dtype=torch.long))
        loss.backward()
        blocks = [torch.randn(997) for _ in range(100)]  # trips over a heap that was damaged
        blocks.clear()


def main() -> None:
    """Print failures and their count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--plain", action="store_true", help="channels-last for all")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    every = fnmatch.filter(smallest_of_each_family(), args.pattern)
    names = [name for name in every if is_small(name)]
    failures = 0
    for name in names:
        if problem := end_of(name, is_plain=args.plain):
            failures += 1
            print(f"{name}: {problem}", flush=True)
    print(f"{len(names) - failures} of {len(names)} models train; {len(every)} families.")


if __name__ == "__main__":
    main()
