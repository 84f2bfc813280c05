"""Cut the smallest model of every family of torchvision and timm behind its frozen part.

    python benchmarks/sweep_boundaries.py [PATTERN] [--output boundaries.csv] [--part i/n]

Networks have random weights, also where libraries begin with zeros or ones, and a new head for
seven classes. Three parts of each are trained in turn: its last stage, its last two, and the last
half of its stages. Of each is asked, on the CPU in float32 without folding:

- can `split_network` cut it;
- in eval mode, are trunk and then tail the whole network to the bit, for another number of images
  than it was cut with;
- in the mode of training, are the gradients of all trained parameters, from the tail on the
  trunk's values, those of the whole network; the largest relative difference is said where they
  are not equal to the bit.

Images are 64 pixels high; where a network does not take them, or cannot be cut on them, its own
size. Models with more than 300 million parameters are skipped.

Printed is how many are cut for each of the three parts, and each that is not with the reason.
"""

import argparse
import csv
import fnmatch
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from sweep_models import CLASSES, build, first_line, smallest_of_each_family
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.backbones.protocol import Backbone
from tlcli.errors import TlcliError
from tlcli.models.boundary import TRIED_IMAGES, NoBoundaryError, SplitNetwork, split_network
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.staged import StagedModel

PARTS = ("last:1", "last:2", "half")
SMALL = 64
"""Side of the images in pixels, where a network takes them."""
MOST_PARAMETERS = 300_000_000
MOST_APART = 1e-4
"""Difference of gradients that order of summation may make."""
EQUAL, APART, NOT_CUT, SKIPPED = "equal", "gradients apart", "not cut", "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one model with one part of it trained; all that is not cut has a reason."""

    model: str
    part: str
    size: int
    """Of the images."""
    result: str
    """One of the four words above; anything else is a defect."""
    detail: str
    """Shapes that cross the boundary for one image, or the reason."""

    @property
    def is_cut(self) -> bool:
        """Say whether both halves give what the whole gives."""
        return self.result in (EQUAL, APART)


def findings_of(name: str) -> list[Finding]:
    """Try the three parts of a model."""
    if (count := parameters_of(name)) > MOST_PARAMETERS:
        detail = f"{count / 1e6:.0f} million parameters"
        return [
            Finding(model=name, part=part, size=0, result=SKIPPED, detail=detail) for part in PARTS
        ]
    findings = {part: find(name, part, size=SMALL) for part in PARTS}
    for part, finding in findings.items():
        if not finding.is_cut and "nothing is frozen" not in finding.detail:
            findings[part] = find(name, part, size=None)
    return list(findings.values())


def parameters_of(name: str) -> int:
    """Count them, without memory; 0 if a network cannot be built like that."""
    try:
        return sum(p.numel() for p in build(name, device="meta").network.parameters())
    except (TlcliError, NotImplementedError, RuntimeError, ValueError):
        return 0


def find(name: str, part: str, *, size: int | None) -> Finding:
    """Try one part of a model on images of a size, or of its own; errors are findings too."""
    own = size or 0
    try:
        torch.manual_seed(0)
        backbone = build(name, device="cpu", input_size=size)
        own = max(backbone.preprocessing.input_size)
        result, detail = compare(staged(backbone, part), size=backbone.preprocessing.input_size)
    except NoBoundaryError as error:
        result, detail = NOT_CUT, str(error)
    except Exception as error:
        result, detail = "error", f"{type(error).__name__}: {first_line(error)}"
    return Finding(model=name, part=part, size=own, result=result, detail=detail)


def staged(backbone: Backbone, part: str) -> StagedModel:
    """Return a network with a new head, random throughout, with the stages of a part open."""
    network = backbone.network
    replace_heads(network, head_names=backbone.head_names, num_classes=CLASSES, spec=HeadSpec())
    shake(network)
    model = StagedModel(network, stages=backbone.stages)
    names = [stage.name for stage in backbone.stages]
    count = {"last:1": 1, "last:2": 2, "half": len(names) // 2}[part]
    model.open_stages(names[-count:])
    return model


@torch.no_grad()
def shake(network: nn.Module) -> None:
    """Move what libraries begin with as one number: norms, their statistics, biases, heads.

    Behind a head of zeros all networks are the same, and so are branches with a last norm of zeros.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() > 1 and (tensor == tensor.max()).all():
            noise = torch.randn_like(tensor).mul_(0.1)
            tensor.add_(noise.abs_() if "var" in name else noise)


def compare(model: StagedModel, *, size: tuple[int, int]) -> tuple[str, str]:
    """Cut a model and compare its halves with the whole."""
    split = split_network(model, example=pictures(TRIED_IMAGES, size, seed=1))
    detail = " ".join("x".join(map(str, shape)) or "1" for shape in split.shapes)
    images = pictures(TRIED_IMAGES + 1, size, seed=2)
    model.eval()
    with torch.no_grad():
        whole = model(images)
        halves = split.tail(*split.trunk(images))
    if not whole.isfinite().all() or whole.std() == 0:
        return "error", "its outputs tell nothing"
    if not torch.equal(whole, halves):
        return "outputs differ", f"by {relative(whole, halves):.1e}"
    apart = largest_difference(model, split, images)
    if apart is None:
        return "error", "other parameters get gradients"
    if not apart <= MOST_APART:
        return "gradients differ", f"by {apart:.1e}"
    return (EQUAL, detail) if apart == 0 else (APART, f"by {apart:.1e}, {detail}")


def largest_difference(model: StagedModel, split: SplitNetwork, images: Tensor) -> float | None:
    """Return that of all gradients, relative to the largest of a parameter; None for others."""
    model.train()
    torch.manual_seed(3)
    whole = gradients(model, model(images))
    torch.manual_seed(3)
    with torch.no_grad():
        values = split.trunk(images)
    halves = gradients(model, split.tail(*values))
    if whole.keys() != halves.keys() or not whole:
        return None
    return max(relative(whole[key], halves[key]) for key in whole)


def gradients(model: StagedModel, logits: Tensor) -> dict[str, Tensor]:
    """Return those of all parameters that get one."""
    model.zero_grad(set_to_none=True)
    F.cross_entropy(logits, torch.arange(len(logits)) % CLASSES).backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def relative(first: Tensor, second: Tensor) -> float:
    """Return the largest difference, relative to the largest value; 0 if equal to the bit."""
    if torch.equal(first, second):
        return 0.0
    return float((first - second).abs().max() / first.abs().max())


def pictures(count: int, size: tuple[int, int], *, seed: int) -> Tensor:
    """Return random ones."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def summary(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield how many are cut, and each that is not."""
    for part in PARTS:
        tried = [one for one in findings if one.part == part and one.result != SKIPPED]
        cut = [one for one in tried if one.is_cut]
        equal = sum(one.result == EQUAL for one in cut)
        yield f"{part}: {len(cut)} of {len(tried)} are cut, {equal} with equal gradients"
    skipped = {one.model: one.detail for one in findings if one.result == SKIPPED}
    yield f"skipped: {len(skipped)}"
    for one in findings:
        if one.result not in (EQUAL, SKIPPED):
            yield f"{one.model} {one.part} ({one.size} pixels): {one.result}: {one.detail}"


def main() -> None:
    """Print one line per problem and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--output", type=Path, help="CSV of all findings; goes on")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th model from the i-th on")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    first, step = map(int, args.part.split("/"))
    names = [n for n in smallest_of_each_family() if fnmatch.fnmatch(n, args.pattern)][first::step]
    known = read_known(args.output)
    for name in names:
        if name not in known:
            known[name] = findings_of(name)
            if args.output:
                with args.output.open("a", newline="") as file:
                    csv.writer(file).writerows(map(astuple, known[name]))
    for line in summary([finding for name in names for finding in known[name]]):
        print(line)


def read_known(path: Path | None) -> dict[str, list[Finding]]:
    """Return the findings of an earlier call; the file grows model by model."""
    known: dict[str, list[Finding]] = {}
    if path is not None and path.exists():
        with path.open(newline="") as file:
            for model, part, size, result, detail in csv.reader(file):
                finding = Finding(
                    model=model, part=part, size=int(size), result=result, detail=detail
                )
                known.setdefault(model, []).append(finding)
    return known


if __name__ == "__main__":
    main()
