"""Small nets of the kinds that edgekd exports to Core ML, with masks that are finite."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Squeeze(nn.Module):
    """Squeeze and excitation with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * functional.hardsigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Mobile(nn.Module):
    """As MobileNetV3: depthwise convolutions, squeeze and excitation, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.block = nn.Sequential(
            nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU6(),
            nn.Conv2d(32, 32, 5, 1, 2, groups=32), nn.BatchNorm2d(32), nn.Hardswish(),
            Squeeze(32), nn.Conv2d(32, 16, 1),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return self.head(x + self.block(x))


class Attention(nn.Module):
    """Of several heads, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        weights = torch.softmax(self.split(self.query(x)) @ keys.transpose(-1, -2) * self.scale + mask, -1)
        return self.out((weights @ values).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """As BERT, of two layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, width), nn.Parameter(torch.randn(1, 12, width))
        self.attentions = nn.ModuleList(Attention(width, 4) for _ in range(2))
        self.wide = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.head = nn.Linear(width, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places
        for at, (attention, wide) in enumerate(zip(self.attentions, self.wide, strict=True)):
            keys, values = attention.split(attention.key(x)), attention.split(attention.value(x))
            x = self.norms[2 * at](x + attention(x, keys, values, (1 - mask[:, None, None]) * -1e4))
            x = self.norms[2 * at + 1](x + wide(x))
        return self.head(x[:, 0])


class DecoderStep(nn.Module):
    """One token, with the keys and values of those before it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.own, self.other = nn.Embedding(50, width), Attention(width, 4), Attention(width, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.head = nn.Linear(width, 50)

    def forward(self, token: Tensor, memory: Tensor, keys: Tensor, values: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        x = self.tokens(token)
        here = (torch.arange(keys.shape[2]) == place).float()[None, None, :, None]
        keys = keys * (1 - here) + self.own.split(self.own.key(x)) * here
        values = values * (1 - here) + self.own.split(self.own.value(x)) * here
        mask = (torch.arange(keys.shape[2]) > place).float()[None, None, None] * -1e4
        x = self.norms[0](x + self.own(x, keys, values, mask))
        others = self.other.split(self.other.key(memory)), self.other.split(self.other.value(memory))
        x = self.norms[1](x + self.other(x, *others, torch.zeros(1, 1, 1, memory.shape[1])))
        return self.head(x), keys, values


class Heads(nn.Module):
    """Several outputs: a map as large as the image, boxes, lines read by an LSTM, and what a GRU makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.MaxPool2d(2))
        self.back = nn.ConvTranspose2d(8, 4, 2, 2)
        self.map, self.boxes = nn.Conv2d(4, 2, 1), nn.Conv2d(8, 4, 1)
        self.reader, self.last = nn.LSTM(32, 6, batch_first=True, bidirectional=True), nn.GRU(12, 5, batch_first=True)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.body(image)
        large = functional.interpolate(self.map(self.back(x)), scale_factor=2, mode="bilinear", align_corners=False)
        lines, _ = self.reader(x.permute(0, 3, 1, 2).flatten(2))
        return (
            torch.softmax(large, 1),
            torch.sigmoid(self.boxes(x)).flatten(2).transpose(1, 2),
            lines,
            self.last(lines)[1],
        )


class Quantized(nn.Module):
    """Convolutions of activations that are rounded to eight bits, as quantization-aware training leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 4)

    @staticmethod
    def rounded(x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.03, 0, torch.qint8).dequantize()

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(self.rounded(image)))
        x = torch.relu(self.second(self.rounded(x)))
        return self.head(self.rounded(x).mean((2, 3)))


class Counter(nn.Module):
    """Keeps a sum from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x
        return self.total * 2


class Wide(nn.Module):
    """Takes images of any width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        return x.flatten(1).softmax(1).reshape(x.shape[0], 2, -1)


def nets() -> dict[str, tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]]:
    """Name -> module, examples, names of inputs and outputs; the same each time."""
    torch.manual_seed(7)
    ids, cache = torch.randint(0, 50, (1, 12)).int(), torch.randn(1, 4, 8, 8)
    made: dict[str, Any] = {
        "mobile": (Mobile(), (torch.randn(1, 3, 32, 32),), ("image",), ("logits",)),
        "encoder": (Encoder(), (ids, (torch.arange(12) < 9).float()[None]), ("ids", "mask"), ("logits",)),
        "decoder": (
            DecoderStep(), (ids[:, :1], torch.randn(1, 6, 32), cache, -cache, torch.tensor([3]).int()),
            ("token", "memory", "keys", "values", "place"), ("logits", "new_keys", "new_values"),
        ),
        "quantized": (Quantized(), (torch.randn(1, 3, 16, 16),), ("image",), ("logits",)),
        "heads": (Heads(), (torch.randn(1, 1, 16, 16),), ("image",), ("map", "boxes", "lines", "last")),
    }  # fmt: skip
    for module, *_ in made.values():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
        module.eval()
    return made
