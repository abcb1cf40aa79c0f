"""The engine of this machine: one C library for all models, vector kernels, threads."""
