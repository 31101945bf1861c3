"""Write the ONNX graphs of the embedded model beside its weights, anew, and its checksums.

    python recipes/embedded/graphs.py weights/embedded

Needed whenever a network's sizes or its config.json change; it takes a minute. Prints for each
graph its size and its largest difference from torch, relative to the largest number of its output.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from checksums import write_checksums  # a recipe's scripts import their neighbours

from auffusion_cli.checkpoints.onnx_export import write_graphs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    folder = parser.parse_args().model
    for graph in write_graphs(folder):
        print(f"{graph.name}: {graph.size_bytes:,} bytes, {graph.max_difference:.1e} from torch")
    write_checksums(folder)


if __name__ == "__main__":
    main()
