"""Fine-tuning as tutorials teach it: ImageFolder, DataLoader, requires_grad = False, a loop.

    python benchmarks/tutorial_script.py DATA --model torchvision/resnet50 --trained layer4,fc

DATA has train and val with a folder for each class. In the manner of PyTorch's tutorial
"Transfer Learning for Computer Vision" (BSD-3-Clause), written anew: `model.train()` every epoch,
two worker processes, random crops and mirroring, judged on val after every epoch. It is the other
arm of benchmarks/whole_run.py.
"""

import argparse
import json
import time
from pathlib import Path

import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def build(name: str, weights: str, *, num_classes: int) -> tuple[nn.Module, dict[str, object]]:
    """Return a network with a new head, and how its pictures are normalised."""
    source, _, architecture = name.partition("/")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if source == "timm":
        model = timm.create_model(architecture)
        if weights != "none":
            model.load_state_dict(safetensors.torch.load_file(weights))
        model.reset_classifier(num_classes)
        config = timm.data.resolve_model_data_config(model)
        return model, {"mean": config["mean"], "std": config["std"]}
    model = torchvision.models.get_model(architecture, weights=None)
    if weights != "none":
        model.load_state_dict(safetensors.torch.load_file(weights))
    head = "fc" if hasattr(model, "fc") else "heads" if hasattr(model, "heads") else "classifier"
    last = getattr(model, head)
    if isinstance(last, nn.Linear):
        setattr(model, head, nn.Linear(last.in_features, num_classes))
    else:
        last[-1] = nn.Linear(last[-1].in_features, num_classes)
    return model, {"mean": mean, "std": std}


def freeze(model: nn.Module, trained: str) -> None:
    """Let only the parameters whose names begin with one of `trained` be trained."""
    wanted = tuple(trained.split(","))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(wanted)


def loaders(
    data: Path, *, batch_size: int, normalize: dict[str, object]
) -> tuple[DataLoader, DataLoader]:
    """Return those of train and val."""
    last = [transforms.ToTensor(), transforms.Normalize(**normalize)]
    crop = transforms.RandomResizedCrop(224, scale=(0.5, 1.0))
    views = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *last])
    plain = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *last])
    train = datasets.ImageFolder(str(data / "train"), views)
    val = datasets.ImageFolder(str(data / "val"), plain)
    options = {"batch_size": batch_size, "num_workers": 2}
    return DataLoader(train, shuffle=True, **options), DataLoader(val, **options)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Return top-1."""
    model.eval()
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)


def main() -> None:
    """Train, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--trained", required=True, help="beginnings of names, with commas")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    num_classes = sum(folder.is_dir() for folder in (args.data / "train").iterdir())
    model, normalize = build(args.model, args.weights, num_classes=num_classes)
    freeze(model, args.trained)
    train, val = loaders(args.data, batch_size=args.batch_size, normalize=normalize)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    best, seconds = 0.0, []
    for _ in range(args.epochs):
        started = time.perf_counter()
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        schedule.step()
        best = max(best, accuracy(model, val))
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"best_val": best, "seconds": seconds}))


if __name__ == "__main__":
    main()
