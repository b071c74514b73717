"""Spoken digits: files of every kind are read, and what a frame holds is the energy at its pitch and time."""

import io
import wave
import zipfile

import numpy as np
import pytest
import torch

from laconic import data
from laconic.data.sound import ShiftMask, log_mel, read_wave
from laconic.errors import LaconicError


def tone(pitch, seconds=0.5, rate=8000):
    times = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def wav(samples, rate=8000, channels=1):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return content.getvalue()


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for take in range(12):
                (folder / f"{digit}_{speaker}_{take}.wav").write_bytes(wav(tone(200 + 100 * digit, 0.3 + 0.1 * take)))
    return tmp_path


def test_takes_0_to_4_are_the_test_and_speakers_are_in_both(recordings):
    found = data.load("fsdd", recordings)
    assert found.test.inputs.shape == (10 * 2 * 5, 40, 98)
    assert found.train.inputs.shape == (10 * 2 * 7, 40, 98)
    assert np.bincount(found.test.labels).tolist() == [10] * 10
    batch = found.train.arrays(slice(None))
    np.testing.assert_allclose(batch.mean((0, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(batch.std((0, 2)), 1, atol=1e-3)


def test_a_zip_is_read_like_the_folder(recordings):
    from_folder = data.load("fsdd", recordings)
    folder = recordings / "fsdd" / "recordings"
    with zipfile.ZipFile(recordings / "fsdd" / "recordings.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"recordings/{path.name}")
    np.testing.assert_array_equal(data.load("fsdd", recordings).test.inputs, from_folder.test.inputs)
    (recordings / "fsdd" / "recordings.zip").write_bytes(b"PK no zip")
    with pytest.raises(LaconicError, match="not a whole zip"):
        data.load("fsdd", recordings)


def test_what_is_absent_or_damaged_is_said(recordings, tmp_path):
    with pytest.raises(LaconicError, match="spoken digits not found"):
        data.load("fsdd", tmp_path / "nowhere")
    path = recordings / "fsdd" / "recordings" / "3_ann_7.wav"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(LaconicError, match=r"3_ann_7.wav is not a whole WAV"):
        data.load("fsdd", recordings)
    for kind, content in (("at 16000 Hz", wav(tone(300), 16000)), ("2 channels", wav(tone(300), channels=2))):
        with pytest.raises(LaconicError, match=kind):
            read_wave(content, "a.wav", 8000)
    for each in (recordings / "fsdd" / "recordings").glob("*_*_?.wav"):
        each.unlink()
    with pytest.raises(LaconicError, match="not whole: takes 0 to 4 are for the test"):
        data.load("fsdd", recordings)


@pytest.mark.parametrize("pitch", [300, 1000, 2500])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(pitch):
    picture = log_mel(tone(pitch), 8000, 40, 200, 80, 256)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    loudest = picture.mean(1).argmax()
    assert abs(loudest - np.abs(centres - pitch).argmin()) <= 1
    assert picture.shape == (40, (4000 - 200) // 80 + 1)


def test_a_frame_by_the_definition():
    """One frame, one band: the windowed sum against every frequency, written out."""
    samples = np.random.default_rng(0).normal(size=200).astype(np.float32)
    picture = log_mel(samples, 8000, 40, 200, 80, 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 199)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1)
    energy = 0.0
    for k in range(129):
        frequency = k * 8000 / 256
        weight = max(0.0, min((frequency - edges[20]) / (edges[21] - edges[20]), (edges[22] - frequency) / (edges[22] - edges[21])))
        energy += weight * abs((samples * window * np.exp(-2j * np.pi * k * np.arange(200) / 256)).sum()) ** 2
    assert picture[20, 0] == pytest.approx(np.log(energy + 1e-6), abs=1e-4)


def test_sounds_are_shifted_and_blanked_by_at_most_what_is_told():
    batch = torch.arange(1.0, 99.0).repeat(64, 40, 1)
    changed = ShiftMask(shift=5, bands=4, frames=10)(batch, torch.Generator().manual_seed(0))
    blank_bands, blank_frames = (changed == 0).all(2).sum(1), (changed == 0).all(1).sum(1)
    assert blank_bands.max() == 4
    assert blank_frames.max() == 10
    assert min(blank_bands.min(), blank_frames.min()) == 0
    kept = changed[:, :, 40][changed[:, :, 40] != 0]
    assert set(kept.tolist()) == {float(value) for value in range(36, 47)}
    plain = ShiftMask(shift=0, bands=0, frames=0)(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain, batch)


def test_changes_are_drawn_ahead_as_in_one_go():
    batch, mask = torch.randn(6, 40, 98), ShiftMask()
    drawn = mask.draw(6, torch.Generator().manual_seed(4))
    torch.testing.assert_close(mask.apply(batch, drawn), mask(batch, torch.Generator().manual_seed(4)))
    torch.testing.assert_close(mask.apply(batch[2:3], drawn[2:3]), mask.apply(batch, drawn)[2:3])
