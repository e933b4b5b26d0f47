import os
import subprocess
import sys
from pathlib import Path

import torch

from kws.audio import ta

OTHERS = {"functional": "", "transforms": ""}


def import_beside(
    folder: Path, extension: str, code: str = "from kws.audio import ta"
) -> subprocess.CompletedProcess[str]:
    """Runs `code` with a fake torchaudio package whose `_extension` module has the given source."""
    package = folder / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("from . import _extension\nfrom . import functional, transforms\n")
    (package / "_extension.py").write_text(extension)
    for name, text in OTHERS.items():
        (package / f"{name}.py").write_text(text)
    root = Path(__file__).parent.parent.parent
    env = {**os.environ, "PYTHONPATH": f"{folder}:{root}"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_it_works_on_this_machine() -> None:
    bank = ta.functional.melscale_fbanks(257, 20.0, 8000.0, 40, 16000, "slaney", "slaney")
    assert bank.shape == (257, 40)
    assert ta.transforms.Spectrogram(n_fft=400)(torch.zeros(1, 800)).shape == (1, 201, 5)


def test_a_stub_replaces_an_extension_for_another_cuda(tmp_path: Path) -> None:
    for number, error in enumerate(("OSError('libcudart.so.13: no such file')", "RuntimeError('CUDA version')")):
        folder = tmp_path / str(number)
        folder.mkdir()
        code = (
            "from kws.audio import ta; import torchaudio, torchaudio._extension as e;"
            "assert ta.torchaudio is torchaudio; assert e._IS_TORCHAUDIO_EXT_AVAILABLE is False;"
            "import kws.audio.ta as t\n"
            "try:\n    e.fail_if_no_align(print)()\n"
            "except RuntimeError as why:\n    print(why)\n"
        )
        done = import_beside(folder, f"raise {error}\n", code)
        assert done.returncode == 0, done.stderr
        assert "compiled extension" in done.stdout


def test_an_extension_that_loads_is_used(tmp_path: Path) -> None:
    code = "from kws.audio import ta; import torchaudio._extension as e; print(e.mine)"
    done = import_beside(tmp_path, "mine = 'the real one'\n", code)
    assert (done.returncode, done.stdout.strip()) == (0, "the real one"), done.stderr


def test_any_other_error_is_not_hidden(tmp_path: Path) -> None:
    done = import_beside(tmp_path, "import a_package_that_is_not_there\n")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
