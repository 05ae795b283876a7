"""CPU time that a thread takes to write down five seconds: Whisper base, the teacher and the student of distil-whisper.

    python benchmarks/transcribing.py

In PyTorch and float32: what listens to the sound once, and fourteen steps with a cache. Weights are random, for they do
not change how long that takes; of each the least of five times, as the process's own clock has it.
"""

import time

import torch

from edgekd.fronts import Fronted
from edgekd.whisper import Decoder, Encoder, Listening, Size, WritingStep

STEPS, LENGTH, BANDS = 14, 24, 80
PIECES, WHOLE = 7_335, 51_865
"""Of the recipe's vocabulary, and of Whisper's."""
NETS = (
    ("Whisper base, its whole vocabulary", 6, WHOLE, 500, 5),
    ("the teacher: its vocabulary cut down", 6, PIECES, 500, 5),
    ("the student", 2, PIECES, 500, 5),
    ("Whisper base, of thirty seconds", 6, WHOLE, 3000, 2),
)


def taken(net: Fronted, listening: Listening, step: WritingStep, frames: int) -> tuple[float, float]:
    """Milliseconds for the sound, and for all steps."""
    planes = torch.randn(1, BANDS, frames)
    start = time.process_time()
    with torch.no_grad():
        context = listening(planes)
        heard = time.process_time()
        state = step.start(1, planes.device)
        for place in range(STEPS):
            _, *later = step(torch.tensor([[3]]), torch.tensor([place]), *context, *state)
            state = tuple(later)
    return 1e3 * (heard - start), 1e3 * (time.process_time() - heard)


def main() -> None:
    """Print a line for each net."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, layers, words, frames, times in NETS:
        size = Size(width=512, heads=8, feed_forward=2048, encoder_layers=6, decoder_layers=layers)
        decoder = Decoder(size, words, LENGTH)
        net = Fronted(Encoder(size, BANDS, frames // 2), decoder).eval()
        step = WritingStep(size, decoder, frames // 2).eval()
        found = [taken(net, Listening(net), step, frames) for _ in range(times + 1)][1:]
        sound, steps = (min(one) for one in zip(*found, strict=True))
        weights = sum(parameter.numel() for parameter in net.parameters())
        print(f"{name}: {weights:,} parameters, {sound:.0f} ms + {steps:.0f} ms = {sound + steps:.0f} ms")


if __name__ == "__main__":
    main()
