import librosa
import numpy as np
import pytest
import torch

from kws.audio.features import SPECS, Features
from kws.data import index
from kws.data.stream import Reader
from kws.errors import UsageError


def clips_of(corpus: index.Index, split: str, count: int) -> torch.Tensor:
    """int16 (count, 16000), spread over the split."""
    reader = Reader(corpus, split, range(len(corpus.words)), 16000)
    wave = np.zeros((count, 16000), dtype=np.int16)
    for row, clip in enumerate(np.linspace(0, len(corpus.split(split)) - 1, count).astype(int)):
        pcm = reader.read(int(clip))[:16000]
        wave[row, : len(pcm)] = pcm
    return torch.from_numpy(wave)


def by_librosa(wave: torch.Tensor, bands: int) -> np.ndarray:
    floats = wave.numpy().astype(np.float32) / 32768
    power = [
        librosa.feature.melspectrogram(y=row, sr=16000, n_fft=2048, hop_length=512, n_mels=bands) for row in floats
    ]
    return np.stack([librosa.power_to_db(each, ref=np.max) for each in power])


@pytest.mark.parametrize(("name", "bands"), [("mel32", 32), ("mel40", 40)])
def test_mel_of_tones_equals_librosa(tones: index.Index, name: str, bands: int) -> None:
    wave = clips_of(tones, "train", 8)
    ours = Features(name)(wave)
    assert ours.shape == (8, 1, bands, 32)
    assert np.abs(ours[:, 0].numpy() - by_librosa(wave, bands)).max() < 1e-3


@pytest.mark.parametrize(("name", "bands"), [("mel32", 32), ("mel40", 40)])
def test_mel_of_real_clips_equals_librosa(real_mini: index.Index, name: str, bands: int) -> None:
    wave = clips_of(real_mini, "train", 24)
    assert np.abs(Features(name)(wave)[:, 0].numpy() - by_librosa(wave, bands)).max() < 1e-3


def log_mel_by_librosa(wave: torch.Tensor, window: int) -> np.ndarray:
    floats = wave.numpy().astype(np.float32) / 32768
    power = librosa.feature.melspectrogram(
        y=floats, sr=16000, n_fft=512, win_length=window, hop_length=160, n_mels=40, fmin=20
    )
    log = np.log(power + 1e-6)
    return (log - log.mean(axis=(1, 2), keepdims=True)) / 3.0


@pytest.mark.parametrize(("name", "window"), [("logmel40", 400), ("logmel40_30ms", 480)])
def test_log_mel_equals_librosas_spectrogram(tones: index.Index, name: str, window: int) -> None:
    wave = clips_of(tones, "train", 8)
    np.testing.assert_allclose(Features(name)(wave)[:, 0].numpy(), log_mel_by_librosa(wave, window), atol=1e-3)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("samples", [16000, 15999, 8000, 400, 1])
def test_the_shape_is_as_said_and_the_values_finite(name: str, samples: int) -> None:
    features = Features(name)
    generator = torch.Generator().manual_seed(0)
    found = features(torch.randint(-3000, 3000, (2, samples), generator=generator, dtype=torch.int16))
    assert found.shape == (2, *features.shape(samples))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("level", [0, 1, 32767, -32768])
def test_constant_clips_such_as_digital_silence_are_finite(name: str, level: int) -> None:
    assert Features(name)(torch.full((1, 16000), level, dtype=torch.int16)).isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_digital_silence_is_flat(name: str) -> None:
    assert Features(name)(torch.zeros(1, 16000, dtype=torch.int16)).abs().max() < 1e-6


@pytest.mark.parametrize("name", SPECS)
def test_a_clip_alone_is_as_in_a_batch(tones: index.Index, name: str) -> None:
    wave, features = clips_of(tones, "train", 7), Features(name)
    together = features(wave)
    alone = torch.cat([features(row[None]) for row in wave])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_integers_and_floats_agree(tones: index.Index, name: str) -> None:
    wave, features = clips_of(tones, "train", 2), Features(name)
    assert torch.equal(features(wave), features(wave.float() / 32768))


@pytest.mark.parametrize("name", SPECS)
def test_loudness_hardly_matters(tones: index.Index, name: str) -> None:
    wave, features = clips_of(tones, "train", 4).float() / 32768, Features(name)
    change = (features(wave) - features(wave * 0.5)).abs().mean()
    assert change < 0.02 * features(wave).std()


def test_nothing_of_it_is_saved_with_a_network() -> None:
    assert not Features("mel32").state_dict()


def test_an_unknown_name_gets_those_that_are_there() -> None:
    with pytest.raises(UsageError, match=r"frontend\.features: no 'mel41'; there are mel32, mel40, logmel40"):
        Features("mel41")
