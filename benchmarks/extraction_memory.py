"""Peak memory of `tlcli extract-features` for few and for many images.

    python benchmarks/extraction_memory.py [--images 1000,100000]

Makes so many different small PNG files in ten class folders, embeds each set with an untrained
`timm/test_resnet` in a process of its own, and prints the peak resident memory of each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


def make_images(root: Path, *, count: int) -> None:
    """Write `count` files that differ in their pixels."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = root / f"class{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def peak_megabytes(images: Path, store: Path) -> float:
    """Extract in a process of its own and return its peak resident memory."""
    options = ["--model", "timm/test_resnet", "--weights", "none", "--no-head", "--quiet"]
    command = [sys.executable, "-m", "tlcli", "extract-features", "--data", str(images)]
    process = subprocess.Popen(
        [*command, *options, "--output", str(store)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"extract-features ended with {status}")
    return usage.ru_maxrss / 1024


def main() -> None:
    """Print one line per number of images, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="1000,100000")
    args = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (int(text) for text in args.images.split(",")):
            root = Path(folder) / str(count)
            make_images(root / "images", count=count)
            peaks.append(peak_megabytes(root / "images", root / "store"))
            print(f"{count:8} images: {peaks[-1]:7.1f} MB", flush=True)
    print(f"difference: {max(peaks) - min(peaks):.1f} MB")


if __name__ == "__main__":
    main()
