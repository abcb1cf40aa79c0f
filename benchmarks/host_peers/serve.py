"""The loop that every peer runs: a line on standard input is one inference, its answer the time that it took."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable


def arguments() -> argparse.Namespace:
    """The options that every peer takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=int, required=True)
    parser.add_argument("--levels", type=int, required=True)
    parser.add_argument("--upsampling", choices=("transposed", "nearest"), required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


def current_mib() -> float:
    """Resident memory of this process now, in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def serve(name: str, infer: Callable[[], object], mib_before: float) -> None:
    """Print "ready NAME MiB added", then answer each line with wall and processor time of one inference, in ms."""
    infer()
    infer()
    print("ready", name, f"{current_mib() - mib_before:.1f}", flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        infer()
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        print(f"{wall * 1e3:.4f} {processor * 1e3:.4f}", flush=True)
