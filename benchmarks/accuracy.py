"""Run the commands of docs/results.md on real photos and print their table.

    python benchmarks/accuracy.py DATA WEIGHTS [NAME ...]

DATA holds the folders `imagenet_kaggle_mini`, `hymenoptera` and `clothing10`, WEIGHTS the files
named below. With NAMEs only those rows are made. Runs go to `runs/accuracy/NAME`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

LITE0 = ("--model", "timm/tf_efficientnet_lite0")
CLOTHING = [
    "--unfreeze",
    "last:3",
    "--epochs",
    "8",
    "--backbone-lr",
    "3e-4",
    "--label-smoothing",
    "0.1",
]
LITE0_FILE = "timm_tf_efficientnet_lite0.safetensors"
ROWS = {
    "imagenet-lite0": ("evaluate", "imagenet_kaggle_mini", LITE0_FILE, [*LITE0]),
    "imagenet-squeezenet": (
        "evaluate",
        "imagenet_kaggle_mini",
        "torchvision_squeezenet1_1.safetensors",
        ["--model", "torchvision/squeezenet1_1"],
    ),
    "hymenoptera-head": (
        "finetune",
        "hymenoptera",
        LITE0_FILE,
        [*LITE0, "--unfreeze", "head", "--epochs", "2"],
    ),
    "hymenoptera-last": (
        "finetune",
        "hymenoptera",
        LITE0_FILE,
        [*LITE0, "--unfreeze", "last:1", "--epochs", "2"],
    ),
    "clothing10-last3": (
        "finetune",
        "clothing10",
        LITE0_FILE,
        [*LITE0, *CLOTHING],
    ),
}


def run(name: str, data: Path, weights: Path) -> tuple[str, list[tuple[str, str]]]:
    """Run one row; return its command as a user types it, and split with top-1 and interval."""
    command, folder, file, options = ROWS[name]
    output = Path("runs/accuracy") / name
    arguments = [command, "--data", str(data / folder), "--weights", str(weights / file), *options]
    made = subprocess.run(
        ["tlcli", *arguments, "--output", str(output), "--overwrite", "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    document = json.loads(made.stdout)
    results = document.get("results") or {document.get("split"): document}
    cells = [(split, _cell(result)) for split, result in results.items()]
    shown = " ".join([command, "--data", folder, "--weights", file, *options])
    return f"tlcli {shown}", cells


def _cell(result: dict) -> str:
    low, high = result["intervals"]["top1"]
    return f"{result['metrics']['top1']:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print a Markdown table."""
    data, weights, *names = sys.argv[1:]
    print("| command | split | top-1 [95 % interval] | seconds |\n|---|---|---|---|")
    for name in names or ROWS:
        started = time.perf_counter()
        command, cells = run(name, Path(data), Path(weights))
        seconds = time.perf_counter() - started
        for split, cell in cells:
            print(f"| `{command}` | {split} | {cell} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
