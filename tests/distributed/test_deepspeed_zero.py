from __future__ import annotations

import subprocess
import sys

import pytest

from kws.distributed import deepspeed_zero
from kws.errors import UsageError


def launched(stage: str, **more: str) -> dict[str, str]:
    """What accelerate launch leaves in the environment."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage, **more}


def test_the_setting_counts_where_no_launcher_speaks_of_deepspeed() -> None:
    assert [deepspeed_zero.resolve_stage(wanted, {}) for wanted in (0, 1, 2)] == [0, 1, 2]
    assert (
        deepspeed_zero.resolve_stage(2, {"ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"})
        == 2
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_the_launch_file_counts_where_the_setting_is_silent_or_agrees(stage: int) -> None:
    assert (
        deepspeed_zero.resolve_stage(0, launched(str(stage)))
        == deepspeed_zero.resolve_stage(stage, launched(str(stage)))
        == stage
    )


def test_a_setting_and_a_launch_file_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.zero: 2 wanted, .* zero_stage 1; use .* launch/zero2\.yaml"):
        deepspeed_zero.resolve_stage(2, launched("1"))


@pytest.mark.parametrize(
    "environ", [launched("0"), launched("3"), launched("1", ACCELERATE_DEEPSPEED_CONFIG_FILE="ds.json")]
)
def test_another_stage_or_a_file_of_deepspeeds_own_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"wanted 1 or 2, and no deepspeed_config_file, as in launch/zero1\.yaml"):
        deepspeed_zero.resolve_stage(0, environ)


def test_deepspeed_is_not_imported_before_a_run_asks_for_it() -> None:
    code = "import sys, kws.training.trainer; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
