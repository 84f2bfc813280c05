"""Try every classification model of torchvision and timm, and say which do not work and why.

    python benchmarks/sweep_models.py [PATTERN] [--families] [--output sweep.csv] [--part i/n]

No weights and no memory are needed: networks live on the meta device of PyTorch, which knows shapes
but no numbers; those that compute while they are built or used get a second look on the CPU.
Of each is asked:

- stages: every tensor lies in exactly one, and a forward pass first enters them in their order;
- head: replaced by one for seven classes, train and eval mode give (2, 7) logits;
- freezing: each stage alone can be opened, and then exactly its tensors want gradients;
- training: with all stages open a backward pass reaches every parameter;
- weight decay: the names that the model exempts exist.

Printed is how many of how many pass, and each that does not with the reason.
"""

import argparse
import csv
import fnmatch
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision import models as zoo

from tlcli.backbones.catalog import SOURCES, list_backbones, parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained
from tlcli.backbones.protocol import Backbone
from tlcli.backbones.stages import Stage
from tlcli.errors import TlcliError
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.staged import StagedModel
from tlcli.recipes.model_catalogue import ModelFilter, list_models

CLASSES = 7
UNSURE = ("build:", "forward:", "training:")
"""Problems that the meta device itself may have."""
MOST_WORK = 60e6 * 320**2
"""Parameters times pixels of the largest model that gets a second look."""


def smallest_of_each_family() -> list[str]:
    """Return the model with the fewest parameters of every Python module of both libraries."""
    smallest: dict[str, tuple[float, str]] = {}
    for entry in list_models(ModelFilter(pretrained_only=False)):
        source, _, architecture = entry.name.partition("/")
        builder = (
            timm.models.model_entrypoint(architecture)
            if source == "timm"
            else zoo.get_model_builder(architecture)
        )
        size = math.inf if entry.parameters is None else entry.parameters
        family = builder.__module__
        smallest[family] = min((size, entry.name), smallest.get(family, (math.inf, entry.name)))
    return sorted(name for _, name in smallest.values())


def problems_of(name: str, *, is_patient: bool = False) -> list[str]:
    """Return what is wrong with a model, where it matters by a second look with real numbers."""
    found = list(look(name, device="meta"))
    if any(problem.startswith(UNSURE) for problem in found) and (is_patient or is_small(name)):
        return list(look(name, device="cpu"))
    return found


def is_small(name: str) -> bool:
    """Say whether a laptop can train it on two images."""
    parsed = parse_backbone_name(name)
    source = SOURCES[parsed.source]
    parameters = source.facts(parsed.architecture).parameters or math.inf
    size = source.preprocessing(parsed.architecture, tag=None).input_size
    return parameters * max(size) ** 2 <= MOST_WORK


def look(name: str, *, device: str) -> Iterator[str]:
    """Yield what is wrong with a model on a device."""
    try:
        backbone = build(name, device=device)
    except TlcliError as error:
        yield f"build: {first_line(error)}"
        return
    except Exception as error:
        yield f"build: {type(error).__name__}: {first_line(error)}"
        return
    yield from stage_problems(backbone)
    network, heads = backbone.network, backbone.head_names
    with torch.device(device):
        replace_heads(network, head_names=heads, num_classes=CLASSES, spec=HeadSpec())
    model = StagedModel(backbone.network, stages=backbone.stages)
    yield from freezing_problems(model)
    yield from training_problems(model, size=backbone.preprocessing.input_size)
    names = {key for key, _ in backbone.network.named_parameters()}
    if unknown := backbone.no_weight_decay - names:
        yield f"weight decay: no parameter is called {sorted(unknown)[0]}"


def build(name: str, *, device: str, input_size: int | None = None) -> Backbone:
    """Build with random weights."""
    with torch.device(device):
        return build_untrained(
            parse_backbone_name(name), weights=WeightsChoice(kind="none"), input_size=input_size
        )


def stage_problems(backbone: Backbone) -> Iterator[str]:
    """Yield tensors that are not in one stage, and stages that are out of order."""
    for key in backbone.network.state_dict():
        owners = [stage.name for stage in backbone.stages if stage.owns(key)]
        if len(owners) != 1:
            yield f"stages: {key} lies in {owners or 'none'}"
            return
    try:
        with entered(backbone.network, backbone.stages) as seen, torch.no_grad():
            backbone.network.eval()(pictures(backbone.network, backbone.preprocessing.input_size))
    except Exception as error:
        yield f"forward: {type(error).__name__}: {first_line(error)}"
        return
    order = list(dict.fromkeys(seen))  # layers may be used again
    expected = [stage.name for stage in backbone.stages]
    if order != expected:
        pairs = zip(order, expected, strict=False)
        place = next((i for i, (first, second) in enumerate(pairs) if first != second), -1)
        yield f"order: a pass enters {' '.join(order[max(0, place - 1) : place + 4])} there"


@contextmanager
def entered(network: nn.Module, stages: tuple[Stage, ...]) -> Iterator[list[str]]:
    """Collect the names of stages as a forward pass enters their modules."""
    seen: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        for stage in stages:
            if name and stage.owns(name) and any(True for _ in module.parameters()):
                hooks.append(
                    module.register_forward_pre_hook(lambda *_, own=stage.name: seen.append(own))
                )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def freezing_problems(model: StagedModel) -> Iterator[str]:
    """Open each stage alone."""
    for stage in model.stages:
        model.open_stages([stage.name])
        wrong = [
            key
            for key, parameter in model.network.named_parameters()
            if parameter.requires_grad != stage.owns(key)
        ]
        if wrong:
            yield f"freezing: with {stage.name} open {wrong[0]} is wrong"
            return


def training_problems(model: StagedModel, *, size: tuple[int, int]) -> Iterator[str]:
    """Run both modes, and backward through everything."""
    model.open_stages([stage.name for stage in model.stages])
    try:
        with torch.no_grad():
            shapes = {tuple(model.eval()(pictures(model, size)).shape)}
        logits: Tensor = model.train()(pictures(model, size))
        shapes.add(tuple(logits.shape))
        if shapes != {(2, CLASSES)}:
            yield f"head: logits have the shapes {sorted(shapes)}"
            return
        nn.functional.cross_entropy(
            logits, torch.zeros(2, dtype=torch.long, device=logits.device)
        ).backward()
    except Exception as error:
        yield f"training: {type(error).__name__}: {first_line(error)}"
        return
    unreached = [key for key, p in model.network.named_parameters() if p.grad is None]
    if unreached:
        yield f"training: {len(unreached)} parameters get no gradient, the first is {unreached[0]}"


def pictures(network: nn.Module, size: tuple[int, int]) -> Tensor:
    """Two of them, where the network is."""
    return torch.zeros(2, 3, *size, device=next(network.parameters()).device)


def first_line(error: Exception) -> str:
    """Return what an error says, in short."""
    return " ".join(str(error).split())[:140]


def main() -> None:
    """Print one line per problem and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--families", action="store_true", help="the smallest of each family only")
    parser.add_argument("--output", type=Path, help="CSV of all models and their problems; goes on")
    parser.add_argument("--patient", action="store_true", help="a second look at large ones too")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th model from the i-th on")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    first, step = map(int, args.part.split("/"))
    every = smallest_of_each_family() if args.families else list_backbones()
    names = [name for name in every if fnmatch.fnmatch(name, args.pattern)][first::step]
    known = read_known(args.output)
    for name in names:
        if name not in known:
            known[name] = "; ".join(problems_of(name, is_patient=args.patient))
            if args.output:
                with args.output.open("a", newline="") as file:
                    csv.writer(file).writerow((name, known[name]))
        if known[name]:
            print(f"{name}: {known[name]}", flush=True)
    works = sum(not known[name] for name in names)
    print(f"{works} of {len(names)} models pass.")


def read_known(path: Path | None) -> dict[str, str]:
    """Return the problems of models that an earlier call tried; the file grows model by model."""
    if path is None or not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row[0]: row[1] for row in csv.reader(file)}


if __name__ == "__main__":
    main()
