"""Seconds of one training epoch with freed memory kept and handed back, side by side.

    python benchmarks/kept_memory.py [ROUNDS]

Each arm is a process of its own, in turn (A B A B ...); prints each arm's times and the ratio
pair by pair: minimum, median, maximum.
"""

import os
import statistics
import subprocess
import sys

ARM = """
import sys, time, timm, torch
from tlcli.engine.cpu_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
network = timm.create_model("tf_efficientnet_lite0", num_classes=10)
network.to(memory_format=torch.channels_last)
network.requires_grad_(False).eval()
network.classifier.requires_grad_(True)
images = torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
for step in range(12):
    if step == 2:
        started = time.perf_counter()
    network(images).sum().backward()
print(time.perf_counter() - started)
"""


def seconds(arm: str) -> float:
    """Time ten steps on the frozen network in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", ARM, arm]
    made = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(made.stdout)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    pairs = [(seconds("returned"), seconds("kept")) for _ in range(rounds)]
    ratios = [returned / kept for returned, kept in pairs]
    for name, values in (
        ("returned, s", [pair[0] for pair in pairs]),
        ("kept, s", [pair[1] for pair in pairs]),
        ("ratio", ratios),
    ):
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:>12}  min {low:.2f}  median {middle:.2f}  max {high:.2f}")


if __name__ == "__main__":
    main()
