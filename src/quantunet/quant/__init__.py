"""Quantizers: pure functions first, thin modules around them."""
