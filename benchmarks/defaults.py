"""What to train: the head, the last stage, more stage by stage, or everything, on real photos.

    python benchmarks/defaults.py DATA WEIGHTS [--sets A,B] [--seeds 3] [--epochs 10]

DATA holds the folders of image sets, WEIGHTS is a file of `timm/tf_efficientnet_lite0`. Every
regime is trained with every seed by `tlcli finetune` with its defaults; the seed draws the split
where a set has none, the order, the views and the head. A set without a test part gives up a fifth
of its images for one, as the part that chose the epoch flatters regimes with more epochs to choose
from. Runs go to `runs/defaults/SET-REGIME-EPOCHS-SEED-KEY`, where KEY stands for the options, the
weights, tlcli's version and its defaults, and those that are there are not made again. Printed are
mean, lowest and highest top-1 of the test part.
"""

import argparse
import functools
import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tlcli import __version__
from tlcli.config import FinetuneConfig, options_of

REGIMES = {
    "head": ["--unfreeze", "head"],
    "last:1": ["--unfreeze", "last:1"],
    "last:3": ["--unfreeze", "last:3"],
    "gradual": ["--schedule", "gradual:2"],
    "all": ["--unfreeze", "all"],
}
MODEL = "timm/tf_efficientnet_lite0"
RUNS = Path("runs/defaults")


def run(data: Path, weights: Path, *, regime: str, seed: int, epochs: int) -> tuple[float, float]:
    """Train unless that was done; return top-1 and seconds."""
    options = ["--model", MODEL, *REGIMES[regime], "--seed", str(seed), "--epochs", str(epochs)]
    if not (data / "test").is_dir():
        options += ["--test-split", "0.2"]
    defaults = options_of(FinetuneConfig())
    key = json.dumps([options, defaults, str(data.resolve()), sha256_of(weights), __version__])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    output = RUNS / f"{data.name}-{regime.replace(':', '')}-{epochs}-{seed}-{digest}"
    record = output / "run.json"
    if not record.exists() or json.loads(record.read_text())["status"] != "finished":
        options += ["--data", str(data), "--weights", str(weights), "--output", str(output)]
        command = [sys.executable, "-m", "tlcli", "finetune", *options, "--quiet", "--resume"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(record.read_text())
    return found["results"]["test"]["metrics"]["top1"], found["seconds"]["total"]


@functools.cache
def sha256_of(file: Path) -> str:
    """Return the digest of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    """Print a Markdown table, row by row as it is made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sets", default="hymenoptera,brain_mri,clothing10")
    parser.add_argument("--regimes", default=",".join(REGIMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    print("| data | regime | mean top-1 | lowest | highest | seconds per run |")
    print("|---|---|---|---|---|---|")
    for name in args.sets.split(","):
        for regime in args.regimes.split(","):
            rows = [
                run(args.data / name, args.weights, regime=regime, seed=seed, epochs=args.epochs)
                for seed in range(args.seeds)
            ]
            scores = [score for score, _ in rows]
            seconds = statistics.mean(spent for _, spent in rows)
            print(
                f"| {name} | {regime} | {statistics.mean(scores):.3f} | {min(scores):.3f} | "
                f"{max(scores):.3f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
