"""Features against librosa's, on generated and on real clips, at other rates, lengths and channels."""

from __future__ import annotations

import io

import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch

from kws.audio import codec
from kws.audio.features import SPECS, Features
from kws.errors import UsageError
from tests.audio import librosa_chain as reference
from tests.audio.sounds import SAMPLES, Sounds, batch, generated

DECIBELS = 1e-3
MELS = pytest.mark.parametrize(("name", "bands"), [("mel32", 32), ("mel40", 40)])


def floats_of(clip: codec.Pcm) -> np.ndarray:
    return clip.astype(np.float32) / 32768


def features_of(name: str, clips: list[codec.Pcm]) -> np.ndarray:
    """(B, F, N), of the clips padded or cut to a second."""
    return Features(name)(batch(clips, SAMPLES)[0])[:, 0].numpy()


# --- equal to librosa -----------------------------------------------------------------------------------------


@MELS
def test_mel_equals_librosa(sounds: Sounds, name: str, bands: int) -> None:
    ours = features_of(name, sounds.clips)
    assert ours.shape == (len(sounds.clips), bands, 32)
    for found, clip in zip(ours, sounds.clips, strict=True):
        assert np.abs(found - reference.evaluation_features(floats_of(clip), bands)).max() < DECIBELS


@pytest.mark.parametrize(("name", "window"), [("logmel40", 400), ("logmel40_30ms", 480)])
def test_log_mel_equals_librosas_spectrogram(sounds: Sounds, name: str, window: int) -> None:
    for found, clip in zip(features_of(name, sounds.clips), sounds.clips, strict=True):
        power = librosa.feature.melspectrogram(
            y=reference.fixed(floats_of(clip)), sr=16000, n_fft=512, win_length=window, hop_length=160, n_mels=40,
            fmin=20,
        )  # fmt: skip
        log = np.log(power + 1e-6)
        np.testing.assert_allclose(found, (log - log.mean()) / 3.0, rtol=0, atol=1e-4)


def test_streamed_log_mel_equals_librosas_uncentred_spectrogram(sounds: Sounds) -> None:
    for found, clip in zip(features_of("logmel40_stream", sounds.clips), sounds.clips, strict=True):
        wave = np.pad(reference.fixed(floats_of(clip)), (56, 56))  # librosa's window is in the middle of 512 samples
        power = librosa.feature.melspectrogram(
            y=wave, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, fmin=20, center=False
        )
        assert found.shape == (40, 98)
        np.testing.assert_allclose(found, (np.log(power + 1e-6) + 10.0) / 4.0, rtol=0, atol=1e-4)


def test_streamed_features_of_a_part_of_a_clip_are_those_of_the_clip(sounds: Sounds) -> None:
    features, wave = Features("logmel40_stream"), batch(sounds.clips[:7], SAMPLES)[0]
    found = features(wave[:, 20 * 160 : 20 * 160 + 400 + 49 * 160])
    torch.testing.assert_close(found, features(wave)[..., 20:70], rtol=0, atol=1e-5)


def test_mfcc_equals_librosas(sounds: Sounds) -> None:
    for found, clip in zip(features_of("mfcc40", sounds.clips), sounds.clips, strict=True):
        wanted = librosa.feature.mfcc(
            y=reference.fixed(floats_of(clip)), sr=16000, n_mfcc=40, n_mels=40, n_fft=512, win_length=480,
            hop_length=160, fmin=20,
        )  # fmt: skip
        assert np.abs(found - wanted).max() < DECIBELS


def recorded(sounds: Sounds, rate: int, channels: int, subtype: str) -> list[tuple[bytes, np.ndarray]]:
    """Files at this rate: (contents, samples (T, channels) as soundfile reads them)."""
    found = []
    for number, clip in enumerate(sounds.clips[:6]):
        samples = soxr.resample(floats_of(clip), 16000, rate)
        others = [samples, *(np.roll(samples, 40 * number + n) * 0.5 for n in range(1, channels))]
        file = io.BytesIO()
        soundfile.write(file, np.stack(others, axis=1), rate, format="WAV", subtype=subtype)
        found.append((file.getvalue(), soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)[0]))
    return found


@MELS
@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8000, 1, "PCM_16"), (48000, 1, "PCM_16"), (48000, 2, "FLOAT"), (16000, 2, "PCM_16"), (44100, 1, "PCM_24")],
)
def test_files_of_other_rates_and_channels_equal_librosa_after_soxr(
    sounds: Sounds, name: str, bands: int, rate: int, channels: int, subtype: str
) -> None:
    for data, samples in recorded(sounds, rate, channels, subtype):
        mono = samples.mean(axis=1)
        resampled = mono if rate == 16000 else soxr.resample(mono, rate, 16000)
        rounded = np.clip(np.rint(resampled * 32768), -32768, 32767).astype(np.float32) / 32768
        found = features_of(name, [codec.decode(data)])[0]
        assert np.abs(found - reference.evaluation_features(rounded, bands)).max() < DECIBELS


# --- any input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("samples", [16000, 15999, 8000, 400, 1])
def test_the_shape_is_as_announced_and_the_values_are_finite(name: str, samples: int) -> None:
    features = Features(name)
    generator = torch.Generator().manual_seed(0)
    found = features(torch.randint(-3000, 3000, (2, samples), generator=generator, dtype=torch.int16))
    assert found.shape == (2, *features.shape(samples))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert found.isfinite().all()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("level", [0, 1, 32767, -32768])
def test_constant_clips_such_as_digital_silence_are_finite(name: str, level: int) -> None:
    assert Features(name)(torch.full((1, 16000), level, dtype=torch.int16)).isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_digital_silence_is_flat(name: str) -> None:
    found = Features(name)(torch.zeros(1, 16000, dtype=torch.int16))
    assert torch.equal(found, found[..., :1].expand_as(found))
    if SPECS[name].scale in ("db", "log"):  # the others have the level
        assert found.abs().max() < 1e-6


@pytest.mark.parametrize("name", SPECS)
def test_a_clip_gives_the_same_alone_and_in_a_batch(sounds: Sounds, name: str) -> None:
    wave, features = batch(sounds.clips[:7], SAMPLES)[0], Features(name)
    alone = torch.cat([features(row[None]) for row in wave])
    torch.testing.assert_close(alone, features(wave), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_features_of_spectra_and_of_power_are_the_same(sounds: Sounds, name: str) -> None:
    features, wave = Features(name), batch(sounds.clips[:7], SAMPLES)[0]
    spectrum = features.spectrum(wave.float() / 32768)
    found = features(wave)
    torch.testing.assert_close(features.scaled(features.mel_of_spectrum(spectrum)), found, rtol=1e-5, atol=1e-4)
    power = spectrum.abs().square()
    torch.testing.assert_close(features.scaled(features.mel_of_power(power)), found, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", SPECS)
def test_int16_and_float_give_the_same(sounds: Sounds, name: str) -> None:
    wave, features = batch(sounds.clips[:3], SAMPLES)[0], Features(name)
    assert torch.equal(features(wave), features(wave.float() / 32768))


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if not spec.streams])
def test_loudness_hardly_matters(name: str) -> None:
    wave, features = batch(generated().clips[:3], SAMPLES)[0].float() / 32768, Features(name)
    first = 1 if name == "mfcc40" else 0  # its first coefficient is the level
    one, half = (features(wave * level)[:, :, first:] for level in (1.0, 0.5))
    assert (one - half).abs().mean() < 0.02 * one.std()


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_normalisation_is_by_band(sounds: Sounds, name: str) -> None:
    wave, bands = batch(sounds.clips[:3], SAMPLES)[0], SPECS[name].bands
    mean, deviation = torch.linspace(-30, 5, bands), torch.linspace(0.5, 20, bands)
    found = Features(name, (mean.tolist(), deviation.tolist()))(wave)
    wanted = (Features(name)(wave) - mean[None, None, :, None]) / deviation[None, None, :, None]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_nothing_is_saved_in_the_state_dict() -> None:
    assert not Features("mel32").state_dict()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"frontend\.features.*'mel41'.*mel32, mel40, logmel40"):
        Features("mel41")
