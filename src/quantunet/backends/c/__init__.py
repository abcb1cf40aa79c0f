"""C99: the project of an integer graph, its memory plan, its kernels, and the proof."""
