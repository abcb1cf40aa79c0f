"""Verilog: a streaming design, its folding, its estimate, simulation and synthesis."""
