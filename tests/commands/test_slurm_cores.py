from pathlib import Path

import pytest

from kws.commands.slurm_cores import cores_per_gpu, gpus_of


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", 4),
        ("gpu:a100:4(S:0-1),nvme:1", 4),
        ("gpu:a100:2(S:0),gpu:1g.10gb:7", 9),
        ("(null)", 0),
        ("shard:8", 0),
    ],
)
def test_gpus_are_read_from_every_form(gres: str, gpus: int) -> None:
    assert gpus_of(gres) == gpus


@pytest.mark.parametrize(
    ("nodes", "gpus", "options", "cores"),
    [
        ("64 gpu:a100:4(S:0-1)", 4, [], 8),
        ("12 gpu:2\n128 (null)", 2, [], 6),
        ("12+ gpu:2\n64 gpu:8", 4, [], 8),  # the first kind of node has too few
        ("6 gpu:2\n64 gpu:8", 1, [], 3),  # fits on both
        ("2 gpu:4", 4, [], 1),
        ("64 gpu:4", 4, ["--cpus-per-task=2"], None),
        ("128 (null)", 4, [], None),
        ("", 4, [], None),
    ],
)
def test_cores_beside_a_gpu_are_what_the_nodes_have(
    nodes: str, gpus: int, options: list[str], cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\nprintf '%s\\n' '{nodes}'\n" if nodes else "#!/bin/sh\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert cores_per_gpu(gpus, options) == cores


def test_without_slurm_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cores_per_gpu(4, []) is None
