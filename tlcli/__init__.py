"""Adapt pretrained vision models to your own images from the shell."""

__version__ = "0.1.0"
