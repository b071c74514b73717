"""Sounds as pictures of energy over pitch and time, and random changes of them."""

import wave
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laconic.errors import LaconicError


def read_wave(content: bytes, name: str, rate: int) -> NDArray[np.float32]:
    """Return the samples of a 16-bit mono WAV file, (samples,), in [-1, 1).

    Raises:
        LaconicError: it is damaged, or of another kind or rate.
    """
    try:
        with wave.open(BytesIO(content)) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError, ValueError) as error:
        raise LaconicError(f"{name} is not a whole WAV file: {error}") from error
    if kind != (1, 2, rate):
        raise LaconicError(f"{name} has {kind[0]} channels of {8 * kind[1]} bits at {kind[2]} Hz; wanted are 1 of 16 at {rate}")
    return (samples / np.float32(32768)).astype(np.float32)


def log_mel(samples: NDArray[np.float32], rate: int, bands: int, window: int, hop: int, fft: int) -> NDArray[np.float32]:
    """Return the logarithm of a sound's energy in bands that are equally wide on the mel scale, (bands, frames).

    Source: S. Davis, P. Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in Continuously Spoken
    Sentences", IEEE Trans. ASSP 1980 (triangular filters); here without the last cosine transform.

    Args:
        samples: (samples,).
        rate: samples a second.
        bands: how many, from 0 Hz to half the rate.
        window: samples that a frame is made of, under a Hann window.
        hop: samples from one frame to the next.
        fft: length of the Fourier transform, `window` or more.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    energy = np.abs(np.fft.rfft(frames * np.hanning(window), fft)) ** 2
    found: NDArray[np.float32] = np.log(energy @ _filters(rate, bands, fft).T + 1e-6).T.astype(np.float32)
    return found


def _filters(rate: int, bands: int, fft: int) -> NDArray[np.float64]:
    """Return triangles over the frequencies of a Fourier transform, (bands, fft / 2 + 1)."""
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.arange(fft // 2 + 1) * rate / fft
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


@dataclass(frozen=True)
class ShiftMask:
    """Shift every sound in time, and blank a stretch of bands and one of frames out.

    Source: D. Park, W. Chan, Y. Zhang, C. Chiu, B. Zoph, E. Cubuk, Q. Le, "SpecAugment", Interspeech 2019, section 2 (masks).
    """

    shift: int = 8  # frames, at most, to either side
    bands: int = 6  # widest stretch of bands
    frames: int = 12  # longest stretch of frames

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of `batch`.

        Args:
            batch: float, `(n, bands, frames)`, normalised (so that zero is the mean).
            generator: the only source of randomness.
        """
        return self.apply(batch, self.draw(len(batch), generator))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw what becomes of `count` sounds: five numbers in [0, 1) each, (count, 5)."""
        return torch.rand((count, 5), generator=generator, device=generator.device)

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """Return a changed copy of `batch`, each sound by its row of `drawn`."""
        count, bands, frames = batch.shape
        drawn = drawn.to(batch.device)
        shift = (drawn[:, 0] * (2 * self.shift + 1)).floor().long() - self.shift
        source = (torch.arange(frames, device=batch.device) - shift[:, None]).clamp(
            0, frames - 1
        )  # what comes in is the first or last frame
        moved = batch.gather(2, source[:, None].expand(count, bands, frames))
        kept = [_stretch(drawn[:, 1], drawn[:, 2], self.bands, bands), _stretch(drawn[:, 3], drawn[:, 4], self.frames, frames)]
        return moved * kept[0][:, :, None] * kept[1][:, None]


def _stretch(length: Tensor, place: Tensor, longest: int, size: int) -> Tensor:
    """Return ones, (n, size), with zeros over a stretch: 0 to `longest` long, anywhere."""
    lengths = (length * (longest + 1)).floor()
    starts = (place * (size - lengths + 1)).floor()
    positions = torch.arange(size, device=length.device)
    return 1 - ((positions >= starts[:, None]) & (positions < (starts + lengths)[:, None])).float()
