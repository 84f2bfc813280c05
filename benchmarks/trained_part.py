"""Where the time of the trained part goes: a profile of its steps on random values, on the CPU.

    python benchmarks/trained_part.py torchvision/resnet50 --unfreeze layer4 [--batch-size 32]

Printed are PyTorch's operators with their share of five steps of forward, backward and AdamW.
"""

import argparse
from typing import Any

import torch
from sweep_models import CLASSES, build
from torch.nn import functional as F
from torch.optim import AdamW
from torch.profiler import profile

from tlcli.engine.runtime import choose_runtime
from tlcli.models.boundary import TRIED_IMAGES, split_network
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.staged import StagedModel
from tlcli.models.unfreezing import parse_unfreeze


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--unfreeze", required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    runtime = choose_runtime("cpu", amp=None, amp_dtype="auto", channels_last=True, seed=0)
    backbone = build(args.model, device="cpu")
    names, network = backbone.head_names, backbone.network
    replace_heads(network, head_names=names, num_classes=CLASSES, spec=HeadSpec())
    model = StagedModel(network, stages=backbone.stages)
    (phase,) = parse_unfreeze(args.unfreeze, stages=[stage.name for stage in model.stages])
    model.open_stages(phase.trained)
    runtime.place_for_training(model)
    size = backbone.preprocessing.input_size
    split = split_network(model, example=runtime.images(torch.randn(TRIED_IMAGES, 3, *size)))
    with torch.no_grad():
        crossing: Any = split.trunk.eval()(runtime.images(torch.randn(args.batch_size, 3, *size)))
    optimizer = AdamW([p for p in network.parameters() if p.requires_grad], fused=True)
    model.train()

    def steps(count: int) -> None:
        for _ in range(count):
            values = [value.clone() for value in crossing]
            targets = torch.zeros(args.batch_size, dtype=torch.long)
            F.cross_entropy(split.tail(*values), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    steps(2)
    with profile() as found:
        steps(5)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


if __name__ == "__main__":
    main()
