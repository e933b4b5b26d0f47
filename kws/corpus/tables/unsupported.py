"""Formats of datasets that kws recognises by their names but does not read, and how to convert them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_AS_FILES = "write its recordings as files, WORD/FILE.wav"
_AS_CSV = "write a CSV with the columns path, word and speaker"
_FORMATS = (
    (r"(cuts|recordings|supervisions).*\.jsonl(\.gz)?", "a Lhotse manifest", _AS_CSV),
    (r".*\.(csv|tsv|json|jsonl|parquet)\.(gz|bz2|xz|zst)", "a compressed table", "unpack it, for example with gunzip"),
    (r".*\.arrow", "a dataset of datasets.save_to_disk",
     "python -c \"import datasets; datasets.load_from_disk('DIR').to_parquet('train.parquet')\""),
    (r".*\.tfrecords?(-\d+-of-\d+)?", "TFRecord", _AS_FILES),
    (r".*\.(h5|hdf5)", "HDF5", _AS_FILES),
    (r".*\.(npz|npy)", "NumPy arrays", _AS_FILES),
    (r".*\.(pkl|pickle)", "a Python pickle", _AS_FILES),
    (r".*\.(pt|pth)", "a file of torch.save", _AS_FILES),
    (r".*\.mat", "a MATLAB file", _AS_FILES),
    (r".*\.mdb", "an LMDB database", _AS_FILES),
    (r".*\.(sqlite3?|db)", "an SQLite database", f"{_AS_FILES}; or {_AS_CSV}"),
    (r".*\.(xlsx?|ods)", "a spreadsheet", "save it as CSV in UTF-8"),
    (r".*\.(ark)", "a Kaldi archive", _AS_FILES),
    (r".*\.(eaf|trs|stm|ctm|rttm)", "a transcript", f"{_AS_CSV}, start and end; or label tracks of Audacity or Praat"),
    (r".*\.(rar|7z)", "an archive that kws does not read", "unpack it"),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), kind, advice) for pattern, kind, advice in _FORMATS)


def describe(names: Iterable[str]) -> str:
    """One line about the first file (by its name without folders) in a format that kws does not read: which format, and
    how to convert it; "" where there is none."""
    for name in names:
        for pattern, kind, advice in _PATTERNS:
            if pattern.fullmatch(name.rpartition("/")[2]):
                return f"{name} looks like {kind}, which kws does not read: {advice}"
    return ""
