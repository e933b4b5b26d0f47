import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from kws import files
from kws.errors import UsageError
from kws.run.checkpoint import Checkpoints


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"linear.weight": torch.full((3, 2), value), "norm.num_batches_tracked": torch.tensor(7)}


def optimizer() -> dict[str, object]:
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    adam.step()
    return adam.state_dict()


def save(run: Path, step: int, keep: int = 3) -> Path:
    store = Checkpoints(run, keep)
    path = store.save(weights(float(step)), optimizer(), {"step": step}, f"step-{step:08d}")
    store.prune()
    return path


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def newest(run: Path) -> tuple[str | None, list[str]]:
    """Name of the newest undamaged checkpoint, and the warnings."""
    warnings: list[str] = []
    found = Checkpoints(run, warn=warnings.append).newest()
    return found and found.name, warnings


def test_a_loaded_checkpoint_equals_the_saved_one_bit_for_bit(tmp_path: Path) -> None:
    tied = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    model = weights() | {"a": tied, "b": tied, "c": tied.T, "d": tied[1:, ::2]}
    saved = optimizer()
    Checkpoints(tmp_path).save(model, saved, {"step": 3, "best": float("inf"), "word": "näh"}, "step-00000003")
    loaded = Checkpoints(tmp_path).find("last")
    assert loaded.state == {"step": 3, "best": float("inf"), "word": "näh"}
    assert all(torch.equal(loaded.model()[key], value) for key, value in model.items())
    assert all(loaded.model()[key].dtype == value.dtype for key, value in model.items())
    found = loaded.optimizer()
    assert found["param_groups"] == saved["param_groups"]
    assert all(torch.equal(found["state"][0][key], value) for key, value in saved["state"][0].items())  # type: ignore[index]


def test_last_points_at_a_new_checkpoint_and_other_pointers_move_on_request(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    Checkpoints(tmp_path).move_pointer("best_loss", first)
    save(tmp_path, 2)
    assert Checkpoints(tmp_path).find("last").name == "step-00000002"
    assert Checkpoints(tmp_path).find("best_loss").name == "step-00000001"
    assert Checkpoints(tmp_path).find("step-00000001").state == {"step": 1}


def test_a_copy_shares_the_weights_and_has_the_new_state(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    again = Checkpoints(tmp_path).save_copy("step-00000001", {"step": 1, "evaluated": True}, "step-00000001-evaluated")
    assert (again / "model.safetensors").stat().st_ino == (first / "model.safetensors").stat().st_ino
    assert newest(tmp_path) == ("step-00000001-evaluated", [])
    assert Checkpoints(tmp_path).find("last").state == {"step": 1, "evaluated": True}
    assert Checkpoints(tmp_path).find("step-00000001").state == {"step": 1}


def test_a_copy_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    first = save(tmp_path, 1)
    monkeypatch.setattr(os, "link", refuse)
    again = Checkpoints(tmp_path).save_copy("step-00000001", {"step": 1}, "step-00000001-evaluated")
    assert (again / "optimizer.pt").read_bytes() == (first / "optimizer.pt").read_bytes()
    assert newest(tmp_path) == ("step-00000001-evaluated", [])


def test_pruning_keeps_the_newest_and_those_that_a_pointer_names(tmp_path: Path) -> None:
    Checkpoints(tmp_path).move_pointer("best_accuracy", save(tmp_path, 1))
    for step in range(2, 7):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000001", "step-00000005", "step-00000006"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES = [
    ("model.safetensors", flip, "model.safetensors"),
    ("optimizer.pt", cut, "optimizer.pt"),
    ("state.json", flip, "state.json"),
    ("model.safetensors", Path.unlink, "model.safetensors"),
    ("manifest.json", Path.unlink, "manifest.json"),
    ("manifest.json", cut, "damaged"),
    ("manifest.json", lambda path: path.write_text("[]"), "damaged"),
    ("manifest.json", lambda path: path.write_text("{}"), "model.safetensors"),
    ("manifest.json", lambda path: path.write_bytes(b"\xff\xfe"), "damaged"),
]


@pytest.mark.parametrize(("file", "damage", "named"), DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, file: str, damage: object, named: str) -> None:
    save(tmp_path, 1)
    damaged = save(tmp_path, 2)
    damage(damaged / file)  # type: ignore[operator]
    name, warnings = newest(tmp_path)
    assert name == "step-00000001"
    assert len(warnings) == 1
    assert str(damaged) in warnings[0]
    assert named in warnings[0]
    with pytest.raises(UsageError, match=r"damaged .*--checkpoint: .*step-00000001"):
        Checkpoints(tmp_path).find("last")


def test_a_damaged_checkpoint_can_be_saved_anew(tmp_path: Path) -> None:
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / "model.safetensors")
    save(tmp_path, 2)
    assert newest(tmp_path) == ("step-00000002", [])


def save_shards(run: Path) -> Path:
    """A checkpoint whose optimizer two ranks have written, each its shard."""
    store = Checkpoints(run)
    shards = store.optimizer_shards("step-00000001")
    shards.mkdir(parents=True)
    for rank in range(2):
        (shards / f"{rank}_optim_states.pt").write_text(f"of rank {rank}")
    path = store.save(weights(), None, {"step": 1}, "step-00000001")
    store.prune()
    return path


def test_optimizer_shards_become_part_of_the_checkpoint_and_of_its_copy(tmp_path: Path) -> None:
    path = save_shards(tmp_path)
    assert not (path / "optimizer.pt").exists()
    assert sorted(child.name for child in (tmp_path / "checkpoints").iterdir()) == ["last", "step-00000001"]
    store = Checkpoints(tmp_path)
    store.save_copy("step-00000001", {"step": 1, "evaluated": True}, "step-00000001-evaluated")
    found = store.find("last")
    assert found.name == "step-00000001-evaluated"
    for rank in range(2):
        assert (found.optimizer_shards / f"{rank}_optim_states.pt").read_text() == f"of rank {rank}"
        assert (found.optimizer_shards / f"{rank}_optim_states.pt").samefile(path / "zero" / f"{rank}_optim_states.pt")


@pytest.mark.parametrize("file", ["zero/1_optim_states.pt", "zero/2_optim_states.pt"])
def test_a_damaged_or_unknown_optimizer_shard_damages_the_checkpoint(tmp_path: Path, file: str) -> None:
    path = save_shards(tmp_path)
    (path / file).write_text("something else")
    name, (warning,) = newest(tmp_path)
    assert name is None
    assert str(path) in warning
    assert file in warning


@pytest.mark.parametrize("missing", ["zero", "zero/1_optim_states.pt"])
def test_a_missing_optimizer_shard_damages_the_checkpoint(tmp_path: Path, missing: str) -> None:
    path = save_shards(tmp_path)
    shutil.rmtree(path / missing) if missing == "zero" else (path / missing).unlink()
    assert newest(tmp_path)[0] is None


def test_without_checkpoints_the_newest_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    Checkpoints(tmp_path).prune()


def test_an_unknown_name_is_refused_with_the_available_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'last'.*: none"):
        Checkpoints(tmp_path).find("last")
    save(tmp_path, 1)
    with pytest.raises(UsageError, match=r"'best'.*: last, step-00000001"):
        Checkpoints(tmp_path).find("best")


@pytest.mark.parametrize("text", [b"", b"\0\0", b"\xff\xfe\n", b"step-00000009\n"])
def test_a_damaged_pointer_is_a_usage_error_and_pruning_survives_it(tmp_path: Path, text: bytes) -> None:
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "best_loss").write_bytes(text)
    with pytest.raises(UsageError, match="best_loss"):
        Checkpoints(tmp_path).find("best_loss")
    Checkpoints(tmp_path).prune()
    assert names(tmp_path) == ["step-00000001"]


def test_a_save_that_was_killed_is_ignored_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def power_cut(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync", power_cut)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert list((tmp_path / "checkpoints").glob(".step-*"))
    assert newest(tmp_path) == ("step-00000001", [])
    assert Checkpoints(tmp_path).find("last").name == "step-00000001"
    save(tmp_path, 3)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_full_disk_is_a_usage_error_and_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UsageError, match=r"step-00000002: .*No space left"):
        save(tmp_path, 2)
    assert newest(tmp_path) == ("step-00000001", [])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last", "step-00000001"]


def test_a_file_where_the_folder_should_be_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UsageError, match=str(tmp_path)):
        save(tmp_path, 1)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("was-here",)


def test_a_pickle_that_runs_code_is_refused_even_if_the_manifest_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, 1)
    torch.save({"state": Evil(), "param_groups": []}, path / "optimizer.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["optimizer.pt"] = hashlib.sha256((path / "optimizer.pt").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    found = Checkpoints(tmp_path).find("last")
    with pytest.raises(pickle.UnpicklingError):
        found.optimizer()
    assert not (tmp_path / "was-here").exists()
