"""`kws configs`: what it lists, and copies that never overwrite."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from kws import cli, settings_file, shipped_files
from kws.commands import config_files
from kws.errors import UsageError
from tests.conftest import ROOT


def test_every_config_is_listed_with_its_network_and_what_its_header_says() -> None:
    found = {item.name: item for item in config_files.find_files("configs")}
    assert sorted(found) == shipped_files.config_names()
    assert all(item.network and item.about and item.hardware and item.time and item.score for item in found.values())
    quick = found["quick"]
    assert (quick.network, quick.hardware) == ("matchboxnet_3x2x64", "2 CPU cores")
    for kind in ("launch", "slurm"):
        assert all(item.about for item in config_files.find_files(kind))


def test_a_new_run_can_show_the_score_and_the_time_that_a_header_promises(tmp_path: Path) -> None:
    quick = config_files.expectation(shipped_files.folder("configs") / "quick.toml")
    assert "quick.toml" in quick
    assert "test clips" in quick
    assert "min" in quick
    own = tmp_path / "own.toml"
    own.write_text("# My own.\n\n[model]\nname = 'res8'\n")
    assert config_files.expectation(own) == ""


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs", "tc_resnet*"]) == cli.OK
    shown = capsys.readouterr().out
    assert "tc_resnet8_1.5" in shown
    assert "quick" not in shown
    assert "kws configs 'tc_resnet*' --copy configs" in " ".join(shown.split())
    assert cli.main(["configs", "quick", "--json"]) == cli.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["path"]) == ("quick", str(ROOT / "configs" / "quick.toml"))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="quick"):
        config_files.find_files("configs", ["qiuck"])


def test_copies_are_whole_and_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own"
    assert cli.main(["configs", "quick", "--copy", str(own)]) == cli.OK
    assert f"kws train {own}/quick.toml" in capsys.readouterr().out
    assert settings_file.load(own / "quick.toml") == settings_file.load(ROOT / "configs" / "quick.toml")
    assert cli.main(["configs", "--copy", str(own)]) == cli.OK, "an equal copy is no obstacle"
    assert len(list(own.iterdir())) == len(shipped_files.config_names())
    (own / "quick.toml").write_text("# mine")
    (own / "demo.toml").unlink()
    assert cli.main(["configs", "--copy", str(own)]) == cli.USAGE
    assert str(own / "quick.toml") in capsys.readouterr().err
    assert (own / "quick.toml").read_text() == "# mine"
    assert not (own / "demo.toml").exists()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        config_files.copy_files(config_files.find_files("launch"), tmp_path / "file")


def test_copied_job_scripts_find_each_other_in_a_folder_of_any_name(tmp_path: Path) -> None:
    copies = config_files.copy_files(config_files.find_files("slurm"), tmp_path / "my jobs")
    job = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    (script,) = [path.read_text() for path in copies if path.name == "compare.sbatch"]
    done = subprocess.run(["bash", "-c", script, "-", "runs"], cwd="/", env=job, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("kws: ")
