"""Sizes and paddings of windows that slide over the spatial axes, shared by convolutions and pools."""

from collections.abc import Sequence

from edgekd.coreml.given import Given

PAD_TYPES = ("valid", "custom", "same", "same_lower")


def paddings(given: Given, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Elements before and after each spatial axis: of the first before, after, of the second before, after, ...

    `windows` are effective sizes: with dilation, what they span.
    """
    pad_type = given.text("pad_type", "valid", among=PAD_TYPES)
    pad = given.ints("pad", [0] * 2 * len(sizes), least=0)
    if pad_type == "custom":
        if len(pad) != 2 * len(sizes):
            raise ValueError(f"{len(pad)} paddings for {len(sizes)} axes")
        return list(pad)
    found = []
    for size, window, stride in zip(sizes, windows, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + window - size, 0) if pad_type != "valid" else 0
        before = total // 2 if pad_type == "same" else total - total // 2
        found += [before, total - before]
    return found


def output_sizes(
    sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int], pad: Sequence[int], *, ceil: bool = False
) -> list[int]:
    """Windows that fit on each spatial axis; with `ceil` also one that begins within and ends without."""
    found = []
    for axis, (size, window, stride) in enumerate(zip(sizes, windows, strides, strict=True)):
        before, after = pad[2 * axis : 2 * axis + 2]
        count = (size + before + after - window + (stride - 1 if ceil else 0)) // stride + 1
        if ceil and before + after > 0 and (count - 1) * stride >= size + before:
            count -= 1
        if count < 1:
            raise ValueError(f"no window of {window} fits on {size} elements with paddings {before} and {after}")
        found.append(count)
    return found


def for_torch(pad: Sequence[int]) -> list[int]:
    """Paddings as torch's `pad` wants them: the last axis first."""
    return [number for at in range(len(pad) - 2, -2, -2) for number in pad[at : at + 2]]
