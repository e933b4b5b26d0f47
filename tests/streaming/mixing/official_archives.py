"""Small archives in the layout of the official ones of DiPCo, LibriSpeech, MUSAN and DEMAND."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from kws.audio import codec
from tests.streaming.mixing.conftest import noise


def dipco(path: Path) -> Path:
    """DipCo.tgz: sessions of 12 s; in S02 somebody says stop from 4 s to 6 s."""
    contents = {"Dipco/README.md": b"about", "Dipco/LICENSE.txt": b"CDLA-Permissive-1.0"}
    for part, session in (("dev", "S02"), ("eval", "S01")):
        channels = [f"U{device:02}.CH{channel}" for device in (1, 2) for channel in (1, 2, 7)]
        for name in [*channels, "P05", "P06"]:
            contents[f"Dipco/audio/{part}/{session}_{name}.wav"] = codec.wav_bytes(noise(12, len(contents)))
        contents[f"Dipco/transcriptions/{part}/{session}.json"] = json.dumps(
            [
                dipco_entry(session, "P05", 1.0, 3.0, "so [noise] what is it"),
                dipco_entry(session, "P06", 4.0, 6.0, "Stop, please" if session == "S02" else "unstoppable"),
            ]
        ).encode()
    return write_tar(path, contents)


def dipco_entry(session: str, speaker: str, start: float, end: float, words: str) -> dict[str, object]:
    """An utterance as the transcripts of DiPCo have them."""
    times = [dict.fromkeys(("U01", "U02", "close-talk"), f"0:00:{seconds:05.2f}") for seconds in (start, end)]
    return {
        "session_id": session, "speaker_id": speaker, "gender": "female", "nativeness": "native",
        "mother_tongue": "U.S. English", "ref": speaker, "words": words, "start_time": times[0], "end_time": times[1],
    }  # fmt: skip


def librispeech(path: Path) -> Path:
    """test-clean.tar.gz: two chapters of three utterances of 4 s, one with the word STOP."""
    contents = {"LibriSpeech/LICENSE.TXT": b"CC BY 4.0", "LibriSpeech/SPEAKERS.TXT": b";ID |SEX\n1089 | M\n"}
    for speaker, chapter in ((1089, 134686), (1221, 135766)):
        folder, lines = f"LibriSpeech/test-clean/{speaker}/{chapter}", []
        for number, text in enumerate(
            ("HE HOPED THERE WOULD BE STEW", "AND THEN THE CLOCKS STOPPED", "IT'S A YES MEN")
        ):
            said = "THEY STOP HERE" if (speaker, number) == (1221, 1) else text
            name = f"{speaker}-{chapter}-{number:04}"
            contents[f"{folder}/{name}.flac"] = codec.flac_bytes(noise(4, speaker + number))
            lines.append(f"{name} {said}\n")
        contents[f"{folder}/{speaker}-{chapter}.trans.txt"] = "".join(lines).encode()
    return write_tar(path, contents)


def musan(path: Path) -> Path:
    """musan.tar.gz: a recording of each kind."""
    contents = {"musan/README": b"about"}
    for kind, source, name in (
        ("music", "fma-western-art", "music-fma-wa-0000"), ("music", "hd-classical", "music-hd-0001"),
        ("speech", "librivox", "speech-librivox-0000"), ("speech", "us-gov", "speech-us-gov-0000"),
        ("noise", "free-sound", "noise-free-sound-0000"), ("noise", "sound-bible", "noise-sound-bible-0001"),
    ):  # fmt: skip
        folder = f"musan/{kind}/{source}"
        contents |= {f"{folder}/{name}.wav": codec.wav_bytes(noise(2, len(contents)))}
        contents |= {f"{folder}/LICENSE": b"CC BY 3.0", f"{folder}/ANNOTATIONS": f"{name} x\n".encode()}
    return write_tar(path, contents)


def demand(path: Path, place: str) -> Path:
    """DKITCHEN_16k.zip: sixteen channels of the same time."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{place}/", b"")
        for channel in range(1, 17):
            archive.writestr(f"{place}/ch{channel:02}.wav", codec.wav_bytes(noise(3, channel)))
    return path


def write_tar(path: Path, contents: Mapping[str, bytes]) -> Path:
    """A tar.gz with entries for its folders."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        folders = {str(parent) for name in contents for parent in Path(name).parents} - {"."}
        for folder in sorted(folders):
            member = tarfile.TarInfo(folder)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
