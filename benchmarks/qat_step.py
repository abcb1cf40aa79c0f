"""How much slower is a quantization-aware step than a float step of the same network? Prints ratios of medians.

A round takes one step of each kind after the other, so that a change in the machine's load meets all of them; the
order within a round turns. On a machine that does other work too, --threads 1 --cpu-time measures this process alone.
With --run, a finished run whose channels may vanish: its network at the end of the descent, beside the float network.
Run: python benchmarks/qat_step.py [--rounds 40] [--threads N] [--cpu-time] [--run runs/isbi_em_32x_s0]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from quantunet.losses import mean_bit_width, segmentation_loss
from quantunet.nn import widths
from quantunet.nn.removal import load_smaller_
from quantunet.nn.unet import UNet
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import LossConfig, NetworkConfig, QuantizerConfig
from quantunet.train.config_file import load_config
from quantunet.train.optim import build_optimizer
from quantunet.train.run_dir import QAT_FILE
from quantunet.train.teacher import build_teacher, teacher_loss

DISTILLATIONS = {
    "distilled": LossConfig(),
    "distilled by features": LossConfig(feature_distillation=3),
    "as by default": LossConfig(feature_distillation=3, distillation_share=0.25),
}
"""What of the float network is in the loss, if anything: its probabilities, its feature maps too, of how many crops."""
KINDS = ("float", "learned", *DISTILLATIONS, "brevitas")
KINDS_OF_A_RUN = ("float", "learned", "as by default", "late", "late as by default")
"""``late``: with what the run had left at the end of its descent."""


def build_step(kind: str, config: NetworkConfig, images: torch.Tensor, target: torch.Tensor, run: Path | None = None):
    """A function that does one whole optimizer step, as ``train/loop.py`` does it."""
    network: UNet = build_float_network(config, images.shape[1], 2, seed=0)
    distillation = DISTILLATIONS.get(kind.removeprefix("late "))
    teacher = build_teacher(network, images.device) if distillation else None
    if kind != "float":
        name = "brevitas" if kind == "brevitas" else "learned"
        network = build_quantized_network(network, QuantizerConfig(name=name), [images])
    if "late" in kind and run is not None:
        load_smaller_(network, torch.load(run / QAT_FILE, weights_only=True))
    network.train()
    optimizer = build_optimizer(network, 1e-3, 1e-4, None if kind == "float" else 0.02)

    def step() -> None:
        logits, features = network.logits_and_features(images)
        loss = segmentation_loss(logits, target).total
        if teacher is not None and distillation is not None:
            compared = features if distillation.feature_distillation else []
            loss = loss + teacher_loss(teacher, images, logits, compared, distillation)
        if kind != "float":
            loss = loss + 0.1 * mean_bit_width(*widths.trainable_widths(network, "parameters"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if kind != "float":
            widths.project_(network)

    return step


def time_interleaved(
    steps: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float], warm_up: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of each step, by kind."""
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    kinds = list(steps)
    for number in range(rounds + warm_up):
        for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
            started = clock()
            steps[kind]()
            if number >= warm_up:
                times[kind].append(1000 * (clock() - started))
    return times


def describe_machine() -> str:
    """Processor, versions, commit, threads, and the load before we began."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        load = Path("/proc/loadavg").read_text(encoding="utf-8").split()[0]
    except (OSError, StopIteration):
        processor, load = platform.processor(), "unknown"
    commit = subprocess.run(
        ["git", "-C", Path(__file__).parent, "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return (
        f"{processor}, {torch.get_num_threads()} threads, load before {load}; python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}; commit {commit or 'unknown'}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--cpu-time", action="store_true", help="processor time of this process, not the wall's")
    parser.add_argument("--base-channels", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--crop-px", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--run", type=Path, default=None, help="run folder, whose network takes the place of the others"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    print(f"{describe_machine()}; {'processor' if arguments.cpu_time else 'wall'} time")
    torch.manual_seed(0)
    size = (arguments.batch_size, arguments.crop_px, arguments.crop_px)
    images = torch.randn(size[0], 1, *size[1:]).to(memory_format=torch.channels_last)
    target = (torch.rand(size) < 0.2).long()
    networks = [NetworkConfig(base_channels=base, levels=arguments.levels) for base in arguments.base_channels]
    kinds = KINDS
    if arguments.run is not None:
        networks, kinds = [load_config(arguments.run / "config.yaml").network], KINDS_OF_A_RUN
    for config in networks:
        steps = {kind: build_step(kind, config, images, target, arguments.run) for kind in kinds}
        times = time_interleaved(steps, arguments.rounds, clock)
        medians = {kind: statistics.median(values) for kind, values in times.items()}
        for kind in kinds:
            ratios = sorted(a / b for a, b in zip(times[kind], times["float"], strict=True))
            low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
            print(
                f"base {config.base_channels}, {size[0]} crops of {size[1]}²: {kind:>14} {medians[kind]:8.1f} ms, "
                f"{medians[kind] / medians['float']:.2f} x float (quarter to three quarters of the rounds: "
                f"{low:.2f} to {high:.2f})"
            )


if __name__ == "__main__":
    main()
