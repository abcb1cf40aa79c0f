"""Overlap and surface metrics, bootstrap intervals. Nothing here imports torch."""
