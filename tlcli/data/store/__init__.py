"""Tensors on disk, computed once: `tensor_store.TensorStore` and what it is made of."""
