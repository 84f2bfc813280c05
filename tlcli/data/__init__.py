"""Bytes on disk to batches of tensors."""
