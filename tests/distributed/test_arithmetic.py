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


PROGRAM = """
import os, sys, torch
from kws.distributed.arithmetic import set_up_gpu_arithmetic
for given in ("", ":16:8"):
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if given:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = given
    set_up_gpu_arithmetic(deterministic=True)
    flags = torch.get_deterministic_debug_mode(), torch.backends.cudnn.deterministic
    print(*flags, os.environ["CUBLAS_WORKSPACE_CONFIG"])
print(torch.utils.deterministic.fill_uninitialized_memory)
"""


@pytest.mark.slow  # torch imports its compiler for it
def test_deterministic_algorithms_are_strict_and_a_fitting_workspace_is_kept() -> None:
    """In a process of its own, because nothing resets the settings."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 True :4096:8", "2 True :16:8", "False"]


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
