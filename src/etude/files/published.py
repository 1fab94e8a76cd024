"""Published weights by name: their addresses and licences, and their download into the user's cache."""

from __future__ import annotations

import logging
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from etude.errors import UserError, one_line_message
from etude.files import atomic, journal, os_errors, ownership
from etude.system import signals, streams

log = logging.getLogger(__name__)
FOLDER_VARIABLE = "ETUDE_WEIGHTS"  # environment variables: folder with weights files,
CACHE_VARIABLE = "ETUDE_CACHE"  # the user's cache, and
MIRROR_VARIABLE = "ETUDE_WEIGHTS_URL"  # address of a folder with copies of the published files
TIMEOUT = 30.0  # seconds without an answer or data from the server
RETRIES = 4  # of a download that is cut off, each of which resumes it
BLOCK = 1 << 16  # bytes
MEGABYTE = 1_000_000
RELEASE = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
HUB = "https://huggingface.co"
AUDIOSET, IMAGENET = "AudioSet", "ImageNet"


@dataclass(frozen=True)
class PublishedWeights:
    """Weights file that `backbone.weights` can name.

    Attributes:
        name: Value of `backbone.weights`.
        file: Name of the file in the folder `ETUDE_WEIGHTS`, in the cache and on a mirror.
        url: Published address.
        licence: Licence of the file.
        trained_on: Data set of the training.
        options: Options of the backbone with which the file fits.
        size: Length in bytes; None if it is not known.
        sha256: SHA-256 of the file; None if it is not known.
    """

    name: str
    file: str
    url: str
    licence: str
    trained_on: str
    options: Mapping[str, float | str] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None

    @property
    def address(self) -> str:
        """Address of the download, which is a mirror if the environment names one."""
        mirror = os.environ.get(MIRROR_VARIABLE)
        return f"{mirror.rstrip('/')}/{self.file}" if mirror else self.url


@dataclass(frozen=True)
class HubModel:
    """Repository of the Hugging Face hub that `backbone.model` can name.

    Attributes:
        licence: Licence of the weights.
        revision: Commit that is downloaded; None for the newest.
        file: Name of the weights file.
        size: Length of the weights file in bytes; None if it is not known.
        sha256: SHA-256 of the weights file; None if it is not known.
    """

    licence: str
    revision: str | None = None
    file: str | None = None
    size: int | None = None
    sha256: str | None = None


def _mn(name: str, file: str, width: float, size: int | None = None, sha256: str | None = None) -> PublishedWeights:
    trained_on = IMAGENET if name.endswith("_im") else AUDIOSET
    return PublishedWeights(name, file, f"{RELEASE}/{file}", "MIT", trained_on, {"width": width}, size, sha256)


_MN10_SHA256 = "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e"
# Further files of the release need other frames (hop_*, mels_*) or are other networks (fc_*, dymn*).
EFFICIENTAT = {
    weights.name: weights
    for weights in (
        _mn("mn01_as", "mn01_as_mAP_298.pt", 0.1, 612_421),
        _mn("mn02_as", "mn02_as_mAP_378.pt", 0.2, 1_432_101),
        _mn("mn05_as", "mn05_as_mAP_443.pt", 0.5, 5_878_097),
        _mn("mn10_as", "mn10_as_mAP_471.pt", 1.0, 19_708_753, _MN10_SHA256),
        _mn("mn20_as", "mn20_as_mAP_478.pt", 2.0, 71_938_961),
        _mn("mn30_as", "mn30_as_mAP_482.pt", 3.0, 156_742_353),
        _mn("mn40_as", "mn40_as_mAP_484.pt", 4.0),
        _mn("mn40_as_ext", "mn40_as_ext_mAP_487.pt", 4.0, 274_206_417),
        _mn("mn40_as_no_im_pre", "mn40_as_no_im_pre_mAP_483.pt", 4.0),
        *(_mn(f"mn{tenths:02}_im", f"mn{tenths:02}_im.pt", tenths / 10) for tenths in (1, 2, 4, 5, 10, 20, 30, 40)),
    )
}
_AST_MODEL = "MIT/ast-finetuned-audioset-10-10-0.4593"
_AST_REVISION = "f826b80d28226b62986cc218e5cec390b1096902"
_AST_SIZE, _AST_SHA256 = 346_404_948, "ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d"
AST = {
    "audioset": PublishedWeights(
        "audioset",
        "ast-finetuned-audioset-10-10-0.4593.safetensors",
        f"{HUB}/{_AST_MODEL}/resolve/{_AST_REVISION}/model.safetensors",
        "BSD 3-clause",
        AUDIOSET,
        {"model": "deit_base_distilled_patch16_384"},
        _AST_SIZE,
        _AST_SHA256,
    )
}
CARD = "see its card"
HUB_MODELS = {
    "m-a-p/MERT-v1-95M": HubModel(
        "CC BY-NC 4.0",
        "12af15fef9d0ac838c3f475bfbbf26d2060dd4f5",
        "pytorch_model.bin",
        377_552_987,
        "a2b8b747f72c06e0595aeae41ae5473f4364938c6b39b2c58be38c48e6bd3fcd",
    ),
    "m-a-p/MERT-v1-330M": HubModel("CC BY-NC 4.0"),
    "m-a-p/music2vec-v1": HubModel(CARD),
    "laion/larger_clap_music": HubModel(
        "Apache 2.0",
        "a0b4534a14f58e20944452dff00a22a06ce629d1",
        "pytorch_model.bin",
        sha256="5c289311f4a030d768af7ffbfdecd01b008aa64824211899a4e59f4f9d154fd1",
    ),
    "laion/clap-htsat-unfused": HubModel(
        "Apache 2.0",
        "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
        "pytorch_model.bin",
        614_525_833,
        "1cd3c601bc4afe0fa87be3de4c13dd2cfadd249fac1e29acf74a9b296c3219bb",
    ),
    _AST_MODEL: HubModel("BSD 3-clause", _AST_REVISION, "model.safetensors", _AST_SIZE, _AST_SHA256),
    "facebook/wav2vec2-base": HubModel("Apache 2.0"),
    "facebook/hubert-base-ls960": HubModel("Apache 2.0"),
    "microsoft/wavlm-base-plus": HubModel(CARD),
    "facebook/data2vec-audio-base": HubModel("Apache 2.0"),
    "openai/whisper-base": HubModel(CARD),
}


def weights_folder() -> Path | None:
    """Return the folder in the environment variable `ETUDE_WEIGHTS`, or None if it is not set."""
    return Path(folder).expanduser() if (folder := os.environ.get(FOLDER_VARIABLE)) else None


def cache_folder() -> Path:
    """Return the folder of downloaded weights in the user's cache, which `ETUDE_CACHE` can set.

    Raises:
        UserError: The user has no home folder.
    """
    if cache := os.environ.get(CACHE_VARIABLE):
        return Path(cache).expanduser().absolute() / "weights"
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        root = "~/Library/Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    if not (folder := Path(os.path.expanduser(root))).is_absolute():  # Path's own raises an error
        raise UserError(f"{root}: there is no such cache folder; set the environment variable {CACHE_VARIABLE}")
    return folder / "etude" / "weights"


def find_published(weights: PublishedWeights) -> Path:
    """Return the file of published weights, from `ETUDE_WEIGHTS`, from the cache or by a download into the cache.

    Raises:
        UserError: The file cannot be downloaded, or differs from the published one.
        RunError: The disk is full.
    """
    folders = [folder for folder in (weights_folder(), cache_folder()) if folder is not None]
    found = (folder / weights.file for folder in folders if (folder / weights.file).is_file())
    return next(found, None) or download(weights)


def download(weights: PublishedWeights) -> Path:
    """Download published weights into the cache. A download that was cut off or interrupted is resumed.

    Of several processes, one downloads the file and the others wait for it.

    Raises:
        UserError: The file cannot be downloaded, or differs from the published one.
        RunError: The disk is full.
    """
    path = cache_folder() / weights.file
    remedy = f"set the environment variable {CACHE_VARIABLE} to another folder"
    with os_errors.explain_errors(path.parent, remedy):
        ownership.open_folder(path.parent)
        with journal.Lock(path.with_name(f".{path.name}.lock"), path.name) as lock:
            lock.acquire(wait=True)
            if not path.is_file():
                partial = path.with_name(f"{path.name}.partial")
                try:
                    _receive(weights, partial)
                except KeyboardInterrupt as error:
                    raise signals.advise(error, "; the same command resumes the download") from None
                atomic.move(partial, path)
    return path


class _CutOffError(Exception):
    """Failure of the connection, after which the download can be resumed."""


def _receive(weights: PublishedWeights, partial: Path) -> None:
    """Download a file completely and check it.

    Args:
        weights: The published weights.
        partial: File of the received part, which may exist.

    Raises:
        UserError: The file cannot be downloaded, or differs from the published one.
    """
    retries, is_resumed = 0, partial.exists()
    while True:
        start = journal.file_stamp(partial)[0]
        try:
            if weights.size is None or start < weights.size:
                _request(weights, partial, max(0, start), announce=not retries)
        except _CutOffError as error:
            if retries == RETRIES or journal.file_stamp(partial)[0] <= max(0, start):
                raise failure(weights, str(error)) from error
            retries += 1
            log.info("%s: %s; the download is resumed", weights.file, error)
            continue
        problem = _find_damage(weights, partial)
        if problem is None:
            return
        atomic.remove(partial)
        if not is_resumed:
            raise failure(weights, f"{problem}, and was removed")
        is_resumed = False  # the part of an earlier command may belong to another file


def _request(weights: PublishedWeights, partial: Path, start: int, announce: bool) -> None:
    """Receive the bytes of a file from an offset, or all bytes from a server that cannot send a part.

    Raises:
        _CutOffError: The connection failed, and what was received is kept.
        UserError: The server refuses, or has another file.
    """
    headers = {"User-Agent": "etude"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(weights.address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the file has no more bytes
            return
        raise failure(weights, f"HTTP status {error.code}") from error
    except ValueError as error:
        raise failure(weights, one_line_message(error)) from error
    except (OSError, HTTPException) as error:
        raise _CutOffError(_reason(error)) from error
    with response:
        content_range = response.headers.get("Content-Range", "")
        if response.status != 206:
            start = 0
        elif not content_range.startswith(f"bytes {start}-"):
            atomic.remove(partial)
            raise _CutOffError(f"the server sent {content_range or 'an unknown part'}")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else weights.size
        if None not in (total, weights.size) and total != weights.size:
            raise failure(weights, f"it has {total:,} bytes instead of {weights.size:,}")
        if announce:
            announce_download(weights.file, total, weights.licence, weights.address)
        with atomic.open_file(partial, "ab" if start else "wb", buffering=0) as file:
            groups: Iterable[int] = _write_by_megabyte(response, file)
            if total is not None:
                groups = streams.track(groups, -(-(total - start) // MEGABYTE), weights.file, "MB")
            done = start + sum(groups)
    if total is not None and done < total:
        raise _CutOffError(f"cut off after {done:,} of {total:,} bytes")


def _write_by_megabyte(response: HTTPResponse, file: IO[bytes]) -> Iterator[int]:
    """Write the received bytes to a file, and yield the number of bytes after each megabyte and at the end."""
    group = 0
    while True:
        try:
            block = response.read1(BLOCK)
        except (OSError, HTTPException) as error:
            raise _CutOffError(_reason(error)) from error
        with os_errors.writing(file.name):
            journal.write_all(file, block)
        group += len(block)
        if group >= MEGABYTE:  # by less than a block
            yield MEGABYTE
            group -= MEGABYTE
        if not block:
            break
    if group:
        yield group


def _find_damage(weights: PublishedWeights, path: Path) -> str | None:
    """Return how a received file differs from the published one, or None.

    Without a checksum, the checksums inside a file of `torch.save` are compared with its content.
    """
    size = journal.file_stamp(path)[0]
    if weights.size is not None and size != weights.size:
        return f"the received file has {size:,} bytes instead of {weights.size:,}"
    if weights.sha256 is not None:
        sha256 = journal.file_hash(path)
        expected = f"instead of {weights.sha256[:12]}..."
        return None if sha256 == weights.sha256 else f"the received file has the SHA-256 {sha256[:12]}... {expected}"
    try:
        with zipfile.ZipFile(path) as archive:
            return "the received file is damaged" if archive.testzip() else None
    except Exception:  # a damaged header leads to errors of many types
        return "the received file is not a weights file"


def failure(weights: PublishedWeights, reason: str) -> UserError:
    """Return the error for weights that cannot be downloaded, which states where to store the file."""
    folder = weights_folder() or cache_folder()
    return UserError(
        f"backbone.weights={weights.name}: {weights.address} cannot be downloaded ({reason}); try again, or download "
        f"it on another machine and store it as {folder / weights.file}"
    )


def announce_download(name: str, size: int | None, licence: str, address: str) -> None:
    """Log the size in bytes, the licence and the address of a file before it is downloaded."""
    size_text = "unknown size" if size is None else f"{size / MEGABYTE:.1f} MB"
    log.info("%s: downloading %s from %s; licence: %s", name, size_text, address, licence)


def _reason(error: Exception) -> str:
    """Return the reason of a failed connection."""
    error = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    return getattr(error, "strerror", None) or one_line_message(error, 200)
