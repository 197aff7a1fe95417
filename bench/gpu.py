"""Everything that wants a GPU, the short measurements first. What fails is told at the end and stops nothing.

Each script writes its own result file; the grid of methods takes what is left of the time, and goes on from
there when it is called again.

    python bench/gpu.py --data data/ --work work/ [--minutes 25] [--authors MU-Q-MUL/Classification]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Scripts with their options, all but the grid."""
    cifar, shared = str(options.data / "cifar10"), ["--data", str(options.data), "--work", str(options.work)]
    recipe = "cifar10-resnet18-w4a4"
    found = [
        ["speed.py", "--device", "cuda", "--batch", "256", "--repeats", "10"],
        ["breakdown.py", "--device", "cuda", "--batch", "256"],
        ["memory.py", "--device", "cuda", "--batch", "256"],
        ["epoch.py", "--device", "cuda"],
        ["stacked.py", "--device", "cuda"],
        ["request.py", "--dataset", cifar, "--recipe", recipe, "--images", "50000", "--seeds", "0", "1", "2"],
        ["together.py", "gpu", *shared, "--network", recipe, "--rounds", "1"],
    ]
    if options.authors:
        more = ["--images", "10000", "--workers", "8", "--device", "cuda"]
        found.insert(4, ["authors.py", "--repository", str(options.authors), "--data", cifar, *more])
    return found


def main() -> None:
    """Run them one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the image folders.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--authors", type=Path, help="The authors' repository, for authors.py.")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use")
    end, failed = time.monotonic() + 60 * options.minutes, []
    for command in commands(options):
        left = end - time.monotonic()
        print("==", *command, f"({left:.0f} s left)", flush=True)
        try:
            subprocess.run(
                [sys.executable, str(HERE / command[0]), *command[1:]], check=True, timeout=max(1, left)
            )
        except (subprocess.SubprocessError, OSError) as error:
            failed.append(f"{command[0]}: {error}")
    minutes = str(max(0.0, (end - time.monotonic()) / 60))
    shared = ["--data", str(options.data), "--work", str(options.work), "--minutes", minutes]
    grid = [sys.executable, str(HERE / "methods.py"), "gpu", *shared]
    if subprocess.run(grid, check=False).returncode:
        failed.append("methods.py")
    sys.exit("\n".join(failed) or None)


if __name__ == "__main__":
    main()
