"""Configurations x seeds, side by side in one table: plan, run, collect, write."""
