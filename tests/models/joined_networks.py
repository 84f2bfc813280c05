"""Small networks whose frozen body and trained head are joined by code of all kinds."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Joined(nn.Module):
    """A frozen and a trained layer with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.between(self.body(images)))

    def between(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class AsksForValues(Joined):
    def between(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3)) if maps.sum() > 0 else maps.amax((2, 3))


class AsksForTheCount(Joined):
    def between(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3)) if maps.shape[0] > 2 else maps.amax((2, 3))


class UsesTheCount(Joined):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        count, size = maps.shape[0], maps.shape[2]
        scale = self.head.bias.expand(count, -1)
        return self.head(maps.mean((2, 3))) * size + scale


class MixesImages(Joined):
    def __init__(self, *, only_these: bool = False) -> None:
        super().__init__()
        self.only_these = only_these

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        center = maps.mean((0, 2, 3))
        if self.only_these:
            return self.head(center[None])
        return self.head(maps.mean((2, 3)) - center) + center[0]


class Noise(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.size * torch.randn_like(maps)


class AlwaysRandom(Joined):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), Noise(size))


class Positions(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(1).argsort(1)


class GivesWholeNumbers(Joined):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), Positions())

    def between(self, maps: Tensor) -> Tensor:
        return self.head.weight.flatten()[maps[:, :4] % 12]


class ChangesWhatIsCut(Joined):
    """In the whole network the sum is changed before it is doubled; in halves it would be after."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
        nn.init.zeros_(self.head[1].weight)
        nn.init.zeros_(self.head[1].bias)

    def forward(self, images: Tensor) -> Tensor:
        features = self.between(self.body(images))
        changed = features.add_(self.head[0](features))
        return self.head[1](changed + features * 2)


class HandsOutLists(nn.Module):
    def forward(self, maps: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
        return [maps.amax((2, 3)), maps.mean((2, 3))], maps, (maps.shape[2], 2)


class TakesLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, packed: tuple[list[Tensor], Tensor, tuple[int, int]]) -> Tensor:
        (first, second), maps, (height, two) = packed
        assert type(first) is type(second) is Tensor
        return self.head(first + second) * two + maps[:, :3].sum((2, 3)) / height


class CrossedByLists(Joined):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), HandsOutLists())
        self.head = TakesLists()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Windows(Joined):
    """The trained part works on four windows of each image, which stand in its batch."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        count, width = maps.shape[0], maps.shape[1]
        windows = maps[:, :, :60, :60].reshape(count, width, 2, 30, 2, 30)
        windows = windows.permute(0, 2, 4, 1, 3, 5).reshape(count * 4, width, 30, 30)
        logits = self.head(windows.mean((2, 3)))
        return logits.reshape(logits.shape[0] // 4, 4, 3).sum(1)


class AsksForSizes(Joined):
    def between(self, maps: Tensor) -> Tensor:
        if maps.shape[2] < 8:
            maps = F.interpolate(maps, 8)
        count, width, *size = maps.shape
        spread = maps.reshape(count, *size, width)
        return spread.mean((1, 2)) * len(size) / max(size)


class HandsOutNone(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, None]:
        return maps, None


class AsksOfNone(Joined):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), HandsOutNone())

    def between(self, maps: Tensor) -> Tensor:
        maps, mask = maps
        return maps.mean((2, 3)) if mask is None else maps.mean((2, 3)) * mask.view(-1, 1)


class HandsOutItsSize(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return maps.flatten(2), tuple(maps.shape[2:])


class SpreadsSizes(Joined):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), HandsOutItsSize())

    def forward(self, images: Tensor) -> Tensor:
        tokens, size = self.body(images)
        return self.head(tokens.reshape(-1, 4, *size).mean((2, 3))) * len(size)


class HasOptions(Joined):
    def forward(self, images: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        maps = self.body(images)
        if mask is not None:
            maps = maps * mask.view(-1, 1, 1, 1)
        return self.head(self.between(maps)) * scale


class DropsInItsOwnCode(Joined):
    def between(self, maps: Tensor) -> Tensor:
        return F.dropout(maps.mean((2, 3)), 0.5, training=self.training)


class DropsInPlace(Joined):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(4, 3))
