import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from kws.distributed.arithmetic import full_float32, set_up_gpu_arithmetic
from kws.errors import UsageError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def arithmetic_of_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "")  # so that it is restored
    monkeypatch.delenv(WORKSPACE)
    yield
    torch.set_float32_matmul_precision("highest")


def precisions() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


def in_new_process(workspace: str = "") -> list[str]:
    """The process-wide settings after set_up_gpu_arithmetic, which nothing resets."""
    program = (
        "import os, torch\n"
        "from kws.distributed.arithmetic import set_up_gpu_arithmetic\n"
        "set_up_gpu_arithmetic(deterministic=True)\n"
        "print(torch.get_deterministic_debug_mode(), torch.backends.cudnn.deterministic,"
        f" torch.utils.deterministic.fill_uninitialized_memory, os.environ['{WORKSPACE}'])"
    )
    given = {WORKSPACE: workspace} if workspace else {}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | given, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.slow  # torch imports its compiler for it
@pytest.mark.parametrize(("given", "used"), [("", ":4096:8"), (":16:8", ":16:8")])
def test_deterministic_algorithms_are_strict_and_a_fitting_workspace_is_kept(given: str, used: str) -> None:
    assert in_new_process(given) == ["2", "True", "False", used]


def test_a_workspace_with_which_cublas_is_not_deterministic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":0:0")
    set_up_gpu_arithmetic(deterministic=False)
    with pytest.raises(UsageError, match=rf"{WORKSPACE}: :0:0 .*:4096:8 or :16:8"):
        set_up_gpu_arithmetic(deterministic=True)


def test_products_are_in_float32_whatever_a_container_has_set() -> None:
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 does
    set_up_gpu_arithmetic(deterministic=False)
    assert precisions()[1] != "tf32"
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_tf32_is_off_inside_and_as_before_afterwards_also_after_an_error(matmul: str) -> None:
    torch.set_float32_matmul_precision(matmul)
    before = precisions()
    with full_float32():
        with full_float32():
            pass
        assert precisions() == ("ieee", "ieee")
        assert torch.backends.cudnn.deterministic
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert precisions() == before
    assert not torch.backends.cudnn.deterministic
    # Torch raises here where settings by the names before 2.9 and by the present names disagree.
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.allow_tf32
