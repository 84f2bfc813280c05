"""Small image files made on the spot."""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImages = Callable[[Path, Iterable[str]], Path]


@pytest.fixture
def write_images() -> WriteImages:
    """Write an 8x6 picture for every name, different for different names."""

    def write(root: Path, names: Iterable[str]) -> Path:
        for name in names:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
        return root

    return write
