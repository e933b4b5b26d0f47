from __future__ import annotations

import subprocess
import sys

import pytest

from kws.distributed import deepspeed_zero
from kws.errors import UsageError


def launched(stage: str, **more: str) -> dict[str, str]:
    """The environment that accelerate launch sets."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage, **more}


def test_without_a_stage_of_the_launcher_the_setting_counts() -> None:
    disabled = {"ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
    assert [deepspeed_zero.resolve_stage(setting, {}) for setting in (0, 1, 2)] == [0, 1, 2]
    assert deepspeed_zero.resolve_stage(2, disabled) == 2


@pytest.mark.parametrize("stage", [1, 2])
def test_the_launch_file_counts_if_the_setting_is_0_or_equal(stage: int) -> None:
    assert deepspeed_zero.resolve_stage(0, launched(str(stage))) == stage
    assert deepspeed_zero.resolve_stage(stage, launched(str(stage))) == stage


def test_a_setting_that_differs_from_the_launch_file_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.zero: 2 .*launch/zero2\.yaml"):
        deepspeed_zero.resolve_stage(2, launched("1"))


@pytest.mark.parametrize(
    "environ", [launched("0"), launched("3"), launched("1", ACCELERATE_DEEPSPEED_CONFIG_FILE="ds.json")]
)
def test_other_stages_and_deepspeed_config_files_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"launch/zero1\.yaml"):
        deepspeed_zero.resolve_stage(0, environ)


@pytest.mark.slow
def test_training_does_not_import_deepspeed_unless_a_run_uses_it() -> None:
    code = "import sys, kws.training.trainer; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_BUCKET = """
import torch
from kws.config import TrainConfig
from kws.distributed import deepspeed_zero, process_group

settings = TrainConfig(device="cpu", threads=1, zero=2, global_batch=4, micro_batch=4)
with process_group.start(settings) as ranks:
    network = torch.nn.Linear(6, 5)
    engine = deepspeed_zero.create_engine(ranks.accelerator, network, torch.optim.AdamW(network.parameters()))
    print("bucket", engine.optimizer.reduce_bucket_size)
"""


@pytest.mark.slow
def test_buffers_are_as_large_as_the_network_and_not_2_gb() -> None:
    done = subprocess.run([sys.executable, "-c", _BUCKET], capture_output=True, text=True, check=False)
    assert "bucket 36\n" in done.stdout, done.stderr  # 35 parameters, made even
