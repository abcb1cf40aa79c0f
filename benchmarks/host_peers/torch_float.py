"""PyTorch in float32, channels last. Needs: torch."""

from __future__ import annotations

import torch
from network import build
from serve import arguments, current_mib, serve


def main() -> None:
    """Build the network, then serve."""
    options = arguments()
    torch.set_num_threads(options.threads)
    mib_before = current_mib()
    network = build(options.base, options.levels, options.upsampling).to(memory_format=torch.channels_last)
    image = torch.rand(1, 1, options.size, options.size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        serve("torch", lambda: network(image), mib_before)


if __name__ == "__main__":
    main()
