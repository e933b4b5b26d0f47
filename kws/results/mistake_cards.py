"""The worst mistakes that kws.evaluation.mistakes saved, as HTML cards with an audio player and a spectrogram."""

from __future__ import annotations

import io
import zipfile
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws.audio import codec
from kws.results.formats import number
from kws.results.page_parts import embedded
from kws.results.records import Row


def mistake_cards(run: Path, result: Row) -> str:
    """The cards of an evaluation as HTML; "" where it saved no mistakes, or the file is damaged."""
    stem = f"{result['split']}{'-crop' if result.get('crop') else ''}"
    try:
        with (run / "eval" / f"{stem}.mistakes.npz").open("rb") as file, np.load(file) as kept:
            arrays = {name: kept[name] for name in kept.files}
        rows = range(len(arrays["clips"]))
        return "".join(_card({name: array[row] for name, array in arrays.items()}, result["classes"]) for row in rows)
    except (OSError, KeyError, IndexError, ValueError, EOFError, zipfile.BadZipFile):
        return ""


def _card(clip: dict[str, Any], classes: list[str]) -> str:
    truth, predicted = (escape(str(classes[int(clip[key])])) for key in ("truth", "predicted"))
    sound = embedded("audio/wav", codec.wav_bytes(clip["wave"][: max(1, int(clip["lengths"]))]))
    picture = embedded("image/png", _spectrogram(clip["features"]))
    predicted_p, truth_p = number(float(clip["probability"]), ".0%"), number(float(clip["likely"]), ".1%")
    return (
        f'<figure><img class="sound" alt="spectrogram" src="{picture}"><figcaption><b>{truth}</b>, predicted '
        f"<b>{predicted}</b><small>probability {predicted_p}; of {truth} {truth_p}</small>"
        f"<small>{escape(str(clip['names']))}</small></figcaption>"
        f'<audio controls preload="metadata" src="{sound}"></audio></figure>'
    )


def _spectrogram(features: npt.NDArray[np.float16]) -> bytes:
    """A PNG with one pixel per value, low bands at the bottom."""
    from matplotlib.image import imsave

    out, image = io.BytesIO(), features.astype(np.float32)
    low, high = np.quantile(image, (0.02, 0.999))
    imsave(out, image, cmap="magma", origin="lower", vmin=float(low), vmax=float(high), format="png")
    return out.getvalue()
