"""Microcontrollers: the C99 project as firmware of a board, run under QEMU."""
