"""Our engine on the host against others with 8 bits, side by side: time, memory, and the share of the machine's peak.

    python benchmarks/host_engines.py --threads 1 2 --run runs/isbi_em_small_s0 --run runs/isbi_em_32x_s0

Every peer gets an environment of its own (``--environments``), and is a process that does one inference when told to.
Rounds go through all engines in turn, so that what else the machine does meets all alike. With one thread, the figure
is the median of processor time; with more, the median of wall time (processor time would count waiting threads).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from classic_graph import classic_graph

from quantunet.backends.c.build import find_compiler
from quantunet.ir.graph import ConvTranspose2d, IntegerGraph
from quantunet.ir.packed_file import read_model

HERE = Path(__file__).resolve().parent
PEERS = {
    "openvino": ("openvino_int8.py", ["openvino==2026.4.1", "nncf==3.4.0", "torch==2.13.0"]),
    "litert": ("litert_int8.py", ["litert-torch==0.10.0", "ai-edge-litert==2.3.0"]),
    "executorch": ("executorch_int8.py", ["executorch==1.5.1", "torch==2.13.0"]),
    "onnxruntime": (
        "onnxruntime_int8.py",
        ["onnxruntime==1.31.1", "onnx>=1.21,<1.23", "onnxscript==0.7.2", "torch==2.13.0"],
    ),
    "torch float32": ("torch_float.py", ["torch==2.13.0", "numpy"]),
}
RIVALS = ("openvino", "litert", "executorch")


@dataclass
class Server:
    """A running engine: what it was started as, the MiB that it added, and its times in ms."""

    name: str
    process: subprocess.Popen[str]
    mib: float = 0.0
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def run_once(self) -> None:
        """One inference."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall, processor = map(float, self.process.stdout.readline().split())
        self.wall.append(wall)
        self.processor.append(processor)


def start(name: str, command: list[str], threads: int) -> Server | None:
    """Start an engine and wait until it is ready; None if it does not come up."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    cores = sorted(os.sched_getaffinity(0))[:threads]  # some peers take as many threads as they see cores
    process = subprocess.Popen(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if line.startswith("ready "):
            return Server(name, process, float(line.split()[-1]))
    print(f"{name}: did not start: {' '.join(command)}", file=sys.stderr)
    return None


def python_of(environments: Path, peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there."""
    folder = environments / peer.replace(" ", "_")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[peer][1]], check=True)
        (folder / "complete").touch()
    return python


PAUSE_S = 0.3
"""Before each inference with several threads: workers of the engine before spin on for up to 0.2 s, on our cores."""


def macs_of(graph: IntegerGraph, size: int) -> int:
    """Multiply-accumulates of the graph as it is written, for a square image."""
    shapes, total = graph.shapes(size, size), 0
    for node in graph.weight_nodes():
        _, height, width = shapes[node.name]
        total += node.weight.size * height * width // (4 if isinstance(node, ConvTranspose2d) else 1)
    return total


def peak_gmacs() -> float:
    """Products of bytes a second that one core adds up from registers, in 10^9; 0 where this is not known."""
    with tempfile.TemporaryDirectory() as work:
        program = Path(work) / "peak"
        subprocess.run([*find_compiler(), "-O2", "-march=native", HERE / "host_peak.c", "-o", program], check=True)
        return float(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def compare(
    title: str,
    network: tuple[int, int, str, int],
    ours: dict[str, tuple[list[str], int]],
    options: argparse.Namespace,
    threads: int,
    peak: float,
) -> None:
    """Print the table of one network: the peers' 8 bits, and each of our models."""
    base, levels, upsampling, size = network
    common = ["--size", str(size), "--threads", str(threads)]
    servers = []
    for peer in options.peers:
        script = HERE / "host_peers" / PEERS[peer][0]
        shape = ["--base", str(base), "--levels", str(levels), "--upsampling", upsampling]
        servers.append(start(peer, [str(python_of(options.environments, peer)), str(script), *shape, *common], threads))
    script = HERE / "host_peers" / "quantunet_engine.py"
    for name, (extra, _) in ours.items():
        servers.append(start(name, [sys.executable, str(script), *extra, *common], threads))
    running = [server for server in servers if server is not None]
    for _ in range(options.rounds):
        for server in running:
            if threads > 1:
                time.sleep(PAUSE_S)
            server.run_once()
    median = {server.name: statistics.median(server.processor if threads == 1 else server.wall) for server in running}
    rivals = {name: median[name] for name in RIVALS if name in median}
    best = min(rivals, key=lambda name: rivals[name]) if rivals else None
    print(f"\n{title}, {size}x{size}, {threads} thread{'s' * (threads > 1)}, median of {options.rounds} rounds\n")
    print("| engine | ms | least ms | times as fast as the best rival | MiB added | GMAC/s | of the peak |")
    print("|---|---|---|---|---|---|---|")
    for server in running:
        least = min(server.processor if threads == 1 else server.wall)
        ratio = f"{rivals[best] / median[server.name]:.2f}" if best else ""
        rate = ours[server.name][1] / median[server.name] / 1e6 if server.name in ours else 0
        share = f"{rate:.0f} | {rate / peak / threads:.2f}" if rate and peak else " | "
        print(f"| {server.name} | {median[server.name]:.2f} | {least:.2f} | {ratio} | {server.mib:.1f} | {share} |")
    for server in running:
        assert server.process.stdin
        server.process.stdin.close()
        server.process.wait()


def main() -> None:
    """Parse the options, then compare network by network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--base", type=int, nargs="*", default=[16, 32], help="classic U-Nets of 256x256 pixels")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a run, against its network with 8 bits")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "quantunet" / "peers")
    options = parser.parse_args()
    peak = peak_gmacs()
    print(f"{_processor()}, {os.cpu_count()} processors; peak of one core {peak:.0f} GMAC/s (u8 x s8)")
    for threads in options.threads:
        for base in options.base:
            ours = {
                f"quantunet w{weight} a{activation}": (
                    ["--base", str(base), "--weight-bits", str(weight), "--activation-bits", str(activation)],
                    macs_of(classic_graph(base, 5, "transposed", weight, activation), 256),
                )
                for weight, activation in ((8, 8), (4, 6))
            }
            compare(f"Classic U-Net, base {base}", (base, 5, "transposed", 256), ours, options, threads, peak)
        for run in options.run:
            network = yaml.safe_load((run / "config.yaml").read_text())["network"]
            shape = (network["base_channels"], network["levels"], network["upsampling"], 512)
            model = run / "model.safetensors"
            ours = {f"quantunet {run.name}": (["--model", str(model)], macs_of(read_model(model), 512))}
            compare(f"{run.name} against its network with 8 bits", shape, ours, options, threads, peak)


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.processor()


if __name__ == "__main__":
    main()
