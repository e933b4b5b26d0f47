"""Which files hold sound: by the ending of their name, or by their first bytes. Does not depend on a decoder.

    name -> "audio", "maybe" (worth reading the first bytes) or "other"
    first bytes -> the audio format, or what else the file is (a web page, an archive, ...)

The contents count, not the ending: a file named .wav may hold MP3, and is then read as MP3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


def _endings(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXTENSIONS = frozenset({"wav", "flac", "ogg", "opus", "mp3", "aif", "aiff", "au", "w64", "caf"})
"""Endings of audio members in shards (fixed: an index of foreign shards depends on them)."""
_SOUNDFILE_ENDINGS = (
    _endings("""
    wave rf64 bwf oga snd aifc mp2 mpga mpeg3 sph nist wv1 wv2 voc sf ircam paf pvf avr svx 8svx iff
""")
    | EXTENSIONS
)
_FFMPEG_ENDINGS = _endings("""
    m4a m4b m4r mp4 m4v mov qt aac adts amr awb 3gp 3gpp 3g2 webm weba mka mkv wma asf wmv ape wv tta tak ac3 eac3 dts
    dsf mpc mp+ spx ra rm avi flv mpg mpeg
""")
_OTHER_ENDINGS = _endings("""
    txt text md rst log csv tsv json jsonl ndjson xml yaml yml toml ini cfg conf html htm css js py ipynb sh c h cpp
    java m r tex bib pdf doc docx xls xlsx ppt pptx odt rtf png jpg jpeg gif bmp svg tif tiff webp ico npy npz pt pth
    ckpt onnx pkl pickle h5 hdf5 mat parquet arrow feather db sqlite zip tar gz tgz bz2 xz zst 7z rar iso exe dll so o
    pyc lab textgrid eaf trs stm ctm srt vtt cue m3u m3u8 pls nfo lnk url ds_store license readme sha1 sha256 md5 lock
    bak asd reapeaks pk peak sfk mid midi wrd phn flist scp
""")
HEAD_BYTES = 4096
"""How many of a file's first bytes `audio_format` and `describe_other` want."""
NameKind = Literal["audio", "maybe", "other"]


class AudioFormat(NamedTuple):
    """An audio format: its name in messages, the name of ffmpeg's demuxer, and whether libsndfile reads it too."""

    name: str
    demuxer: str
    by_soundfile: bool


_WAV, _AIFF = AudioFormat("WAV", "wav", True), AudioFormat("AIFF", "aiff", True)
_MP3, _AAC = AudioFormat("MP3", "mp3", True), AudioFormat("AAC", "aac", False)
_OGG, _MP4 = AudioFormat("Ogg", "ogg", True), AudioFormat("MP4", "mov", False)
_FORMS = {
    (b"RIFF", b"WAVE"): _WAV,
    (b"RIFX", b"WAVE"): _WAV,
    (b"RF64", b"WAVE"): _WAV,
    (b"BW64", b"WAVE"): _WAV,
    (b"RIFF", b"RMP3"): AudioFormat("MP3 in RIFF", "mp3", True),
    (b"RIFF", b"AVI "): AudioFormat("AVI", "avi", False),
    (b"FORM", b"AIFF"): _AIFF,
    (b"FORM", b"AIFC"): _AIFF,
    (b"FORM", b"8SVX"): AudioFormat("8SVX", "iff", True),
    (b"FORM", b"16SV"): AudioFormat("16SV", "iff", True),
}
"""Chunked formats, by the id of the file and the id of its form."""
_MAGICS = {
    b"fLaC": AudioFormat("FLAC", "flac", True),
    b"OggS": _OGG,
    b"riff\x2e\x91\xcf\x11": AudioFormat("Wave64", "w64", True),
    b"caff\0\1": AudioFormat("CAF", "caf", True),
    b".snd\0\0": AudioFormat("AU", "au", True),
    b"dns.": AudioFormat("AU", "au", True),
    b"NIST_1A\n": AudioFormat("NIST SPHERE", "nistsphere", True),
    b"Creative Voice File\x1a": AudioFormat("VOC", "voc", True),
    b"PVF1\n": AudioFormat("PVF", "pvf", True),
    b"\x1aE\xdf\xa3": AudioFormat("WebM or Matroska", "matroska", False),
    b"#!AMR": AudioFormat("AMR", "amr", False),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": AudioFormat("WMA", "asf", False),
    b"MAC ": AudioFormat("Monkey's Audio", "ape", False),
    b"wvpk": AudioFormat("WavPack", "wv", False),
    b"TTA1": AudioFormat("TTA", "tta", False),
    b"tBaK": AudioFormat("TAK", "tak", False),
    b"DSD ": AudioFormat("DSF", "dsf", False),
    b"MP+": AudioFormat("Musepack", "mpc", False),
    b"MPCK": AudioFormat("Musepack", "mpc8", False),
    b"ADIF": _AAC,
    b".RMF\0\0\0": AudioFormat("RealMedia", "rm", False),
    b"FLV\x01": AudioFormat("FLV", "flv", False),
    b"\0\0\x01\xba": AudioFormat("MPEG", "mpeg", False),
    b"\x0bw": AudioFormat("AC-3", "ac3", False),
    b"\x7f\xfe\x80\x01": AudioFormat("DTS", "dts", False),
}
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the real file with git lfs pull",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"(\xb5/\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x7fELF": "a program",
    b"\0\x05\x16\x07": "macOS metadata",
    b"\0\x05\x16\0": "macOS metadata",
    b"MThd": "MIDI, which is notes and no sound",
    b"#!SILK_V3": "SILK, which no installed program reads",
    b"\x02#!SILK_V3": "SILK, which no installed program reads",
}


def ending(name: str) -> str:
    """What follows the name's last dot, in lower case; "" where there is none."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base else ""


def name_kind(name: str) -> NameKind:
    """The kind of a file by its extension: "audio", "other" (never sound), or "maybe" (the first bytes decide)."""
    kind = ending(name)
    if kind in _SOUNDFILE_ENDINGS or kind in _FFMPEG_ENDINGS:
        return "audio"
    return "other" if kind in _OTHER_ENDINGS else "maybe"


def is_named_as_audio(name: str) -> bool:
    """Whether the name ends like a format that soundfile or ffmpeg reads."""
    return name_kind(name) == "audio"


def audio_format(head: bytes) -> AudioFormat | None:
    """The audio format of a file that begins with `head` (HEAD_BYTES of it, or the whole file); None for all else,
    raw samples without a header among it."""
    start = id3_bytes(head)
    if start:
        return (audio_format(head[start:]) if start + 16 <= len(head) else None) or _MP3
    found = _FORMS.get((head[:4], head[8:12]))
    if found:
        return found
    for magic, known in _MAGICS.items():
        if head.startswith(magic):
            return known
    if (head[:2], head[3:4]) == (b"\x64\xa3", b"\0") or (head[:1], head[2:4]) == (b"\0", b"\xa3\x64"):
        return AudioFormat("IRCAM", "ircam", True)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free"):
        return _MP4
    if head[:565:188] == b"GGGG":  # MPEG transport stream: packets of 188 bytes
        return AudioFormat("MPEG", "mpegts", False)
    return _framed(head)


def describe_other(head: bytes) -> str:
    """What a file without sound is, where its first bytes show it: "a web page", "text"; else ""."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        return "a web page" if b"<html" in text[:1024].lower() or b"<!doctype html" in text[:64].lower() else "XML"
    if head and not any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return "text"
    return ""


def id3_bytes(data: bytes, at: int = 0) -> int:
    """Bytes of the ID3v2 tags that begin at `at`, by their own size fields; 0 where there is none."""
    start = at
    while data.startswith(b"ID3", at) and len(data) >= at + 10 and max(data[at + 6 : at + 10]) < 128:
        size = 0
        for byte in data[at + 6 : at + 10]:  # 7 bits of each
            size = size << 7 | byte
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)  # with a footer
    return at - start


# --- formats that consist of frames, without a header ------------------------------------------------------------

_BITRATES = {  # kbit/s by (MPEG-1, layer) and index
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _framed(head: bytes) -> AudioFormat | None:
    """MP3 or AAC where two frames follow each other; samples without a header often look like one."""
    for frame_bytes, found in ((_mpeg_frame_bytes, _MP3), (_adts_frame_bytes, _AAC)):
        size = frame_bytes(head)
        if size and (size == len(head) or frame_bytes(head[size:])):
            return found
    return None


def _mpeg_frame_bytes(head: bytes) -> int:
    """Bytes of the MPEG audio frame (layer 1 to 3) at the start of `head`; 0 where there is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0
    kbits = _BITRATES[version == 3, layer][bitrate - 1]
    hz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 1:
        return (12 * kbits * 1000 // hz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * kbits * 1000 // hz + padding


def _adts_frame_bytes(head: bytes) -> int:
    """Bytes of the AAC frame with an ADTS header at the start of `head`; 0 where there is none."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 else 0
