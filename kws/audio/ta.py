"""torchaudio, with or without its compiled extension. All of kws imports torchaudio from here.

The extension in the wheel is linked against CUDA. Importing it raises OSError on a machine without CUDA, and
RuntimeError beside a torch that was built for another CUDA version. All that kws uses of torchaudio is plain PyTorch,
so for exactly these two errors a stub module replaces the extension. Nothing in the environment is changed.
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
    stub: Any = types.ModuleType(_NAME, "torchaudio has no compiled extension on this machine")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub.fail_if_no_align = lambda function: _no_alignment
    sys.modules[_NAME] = stub
    return importlib.import_module("torchaudio")


torchaudio = _import()
functional = importlib.import_module("torchaudio.functional")
transforms = importlib.import_module("torchaudio.transforms")
