"""Extraction under fire: killed at random times and shared in different ways, the bytes are equal.

    python benchmarks/killed_extraction.py --data photos/ --model timm/resnet18 --kills 20

Runs `tlcli extract-features --no-head` once undisturbed, once by two torchrun workers, once by two
that are killed and then one, and once killed again and again (SIGKILL) before it may finish. Prints
what each run computed and whether manifest, items and shards are the same bytes as the first one's.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE = [sys.executable, "-m", "tlcli"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tlcli"]


def digests(store: Path) -> dict[str, str]:
    """Return a digest of every file that has to be equal, and of none that tells the time."""
    files = [store / "manifest.json", store / "items.parquet", *sorted(store.glob("shards/*"))]
    names = [str(file.relative_to(store)) for file in files]
    hidden = [path.name for path in store.rglob(".*")]
    assert not hidden, f"temporary files were left: {hidden}"
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in zip(names, files, strict=True)
    }


def extract(command: list[str], options: list[str], store: Path) -> dict[str, int]:
    """Run to the end and return hits and misses."""
    run = subprocess.run(
        [*command, "extract-features", *options, "--no-head", "--json", "--output", str(store)],
        check=True,
        capture_output=True,
        text=True,
    )
    cache: dict[str, int] = json.loads(run.stdout)["trunk_cache"]
    return cache


def descendants(pid: int) -> list[int]:
    """Return all processes below one; torchrun gives its workers sessions of their own."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    children = [int(line) for line in found.stdout.split()]
    return [below for child in children for below in (child, *descendants(child))]


def kill_after(seconds: float, command: list[str], options: list[str], store: Path) -> bool:
    """Start, kill with all its children, and say whether it was still running."""
    process = subprocess.Popen(
        [*command, "extract-features", *options, "--no-head", "--output", str(store)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def main() -> None:
    """Run all four ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = ["--data", args.data, "--model", args.model, "--weights", args.weights, "--offline"]
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        print("1 worker:", extract(ONE, options, folder / "one"), flush=True)
        whole = time.perf_counter() - started
        wanted = digests(folder / "one")
        print("2 torchrun workers:", extract(TWO, options, folder / "two"), flush=True)
        kill_after(0.7 * whole, TWO, options, folder / "mixed")
        print("2 killed, then 1:", extract(ONE, options, folder / "mixed"), flush=True)
        kills = 0
        while kills < args.kills:
            kills += 1
            if not kill_after(chance.uniform(0.1, 0.6) * whole, ONE, options, folder / "killed"):
                print(f"finished before kill {kills}")
        done = len(list((folder / "killed").glob("shards/*.safetensors")))
        print(f"{kills} kills, {done} of {len(wanted) - 2} shards done:", end=" ")
        print(extract(ONE, options, folder / "killed"), flush=True)
        for way in ("two", "mixed", "killed"):
            equal = digests(folder / way) == wanted
            print(f"{way}: {'equal bytes' if equal else 'DIFFERENT BYTES'}")
            if not equal:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
