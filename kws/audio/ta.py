"""torchaudio, with or without its compiled extension; all of kws imports it from here.

The wheel's extension is linked against CUDA: on a machine without CUDA its import raises OSError, beside a torch of
another CUDA version RuntimeError. All that kws uses of torchaudio is plain PyTorch, so on exactly these two errors a
"no extension" module stands in for it. Nothing in the environment is changed.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from typing import Any, NoReturn

_NAME = "torchaudio._extension"


def _no_alignment(*_: object) -> NoReturn:
    raise RuntimeError("forced alignment needs torchaudio's compiled extension, which does not load on this machine")


def _import() -> Any:
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError) as error:
        logging.getLogger(__name__).info("torchaudio without its compiled extension: %s", error)
    for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
        del sys.modules[name]
    stand_in: Any = types.ModuleType(_NAME, "torchaudio has no compiled extension on this machine")
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stand_in.fail_if_no_align = lambda function: _no_alignment
    sys.modules[_NAME] = stand_in
    return importlib.import_module("torchaudio")


torchaudio = _import()
functional = importlib.import_module("torchaudio.functional")
transforms = importlib.import_module("torchaudio.transforms")
