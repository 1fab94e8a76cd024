"""Tests of published weights: where a name is searched, and downloads from a local server that fails in many ways."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.commands import embed
from tests.documentation import ROOT

from etude.backbones.ast import AST
from etude.backbones.efficientat import EfficientAT
from etude.data.sources.demo import HOME
from etude.errors import UserError
from etude.files import published
from etude.files.published import EFFICIENTAT, HUB_MODELS, PublishedWeights, cache_folder, find_published

NAME = "mn01_as"
FILE = EFFICIENTAT[NAME].file


@dataclass
class Server:
    """Behaviour of a local HTTP server, and the requests that it received.

    Attributes:
        content: Content of every file.
        status: Status of a complete answer.
        ranges: Whether parts of a file can be requested.
        sent: Number of bytes after which each answer is cut off, in order; None for all bytes.
        delay: Seconds before an answer is cut off.
        declared: Whether the answer states its length.
        redirects: Whether each address refers to another one, as those of releases.
        requests: Path and range of each request.
    """

    content: bytes
    status: int = 200
    ranges: bool = True
    sent: list[int | None] = field(default_factory=list)
    delay: float = 0.0
    declared: bool = True
    redirects: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        if self.redirects and not handler.path.startswith("/moved/"):
            handler.send_response(302)
            handler.send_header("Location", f"/moved{handler.path}")
            handler.end_headers()
            return
        self.requests.append((handler.path, wanted))
        sent = self.sent.pop(0) if self.sent else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if self.status != 200:
            handler.send_error(self.status)
            return
        if start >= len(self.content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.declared:
            handler.send_header("Content-Length", str(len(self.content) - start))
        handler.end_headers()
        handler.wfile.write(self.content[start:] if sent is None else self.content[start : start + sent])
        if sent is not None:
            handler.wfile.flush()
            time.sleep(self.delay)


@pytest.fixture(scope="module")
def content() -> bytes:
    """Return a file of the authors' format: an EfficientAT of the smallest width with random weights."""
    torch.manual_seed(0)
    net = EfficientAT(128, width=0.1)
    tensors = {k: v.transpose(2, 3).contiguous() if v.ndim == 4 else v for k, v in net.state_dict().items()}
    sizes = {"2.weight": (128, 96), "2.bias": (128,), "5.weight": (527, 128), "5.bias": (527,)}
    tensors |= {f"classifier.{name}": torch.randn(size) for name, size in sizes.items()}
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Yield a server of the file, from which weights are downloaded into an empty cache."""
    behaviour = Server(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    behaviour.address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("ETUDE_WEIGHTS_URL", f"{behaviour.address}/files/")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ETUDE_WEIGHTS", raising=False)
    yield behaviour
    http.shutdown()
    http.server_close()


@pytest.fixture
def weights(content: bytes, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """Return the entry of the table that describes the file of the server."""
    entry = replace(EFFICIENTAT[NAME], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(EFFICIENTAT, NAME, entry)
    return entry


def stored_names() -> list[str]:
    """Return the names of the weights and parts of weights in the cache."""
    return sorted(path.name for path in cache_folder().iterdir() if path.name.startswith("mn"))


def part() -> Path:
    return cache_folder() / f"{FILE}.partial"


@pytest.mark.usefixtures("weights")
def test_name_is_downloaded_once_and_has_width_and_tags(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    net = EfficientAT(128, weights=NAME)
    assert (net.width, net.dim, len(net.tag_names)) == (0.1, 96, 527)
    assert not server.requests  # a network is created without its weights
    net.initialise()
    assert server.requests == [(f"/files/{FILE}", None)]
    assert f"{FILE}: downloading 0.6 MB from {server.address}/files/{FILE}; licence: MIT" in caplog.text
    assert stored_names() == [FILE]
    server.status = 500
    again = EfficientAT(128, weights=NAME)
    again.initialise()
    x, lengths = torch.rand(1, 70, 128), torch.tensor([70])
    with torch.no_grad():
        torch.testing.assert_close(again.eval().tag_probabilities(x, lengths), net.eval().tag_probabilities(x, lengths))
    assert len(server.requests) == 1


@pytest.mark.usefixtures("weights")
def test_command_downloads_named_weights(server: Server, tmp_path: Path) -> None:
    clip = min((HOME / "clips" / "metal").iterdir())
    out = tmp_path / "e.npz"
    arguments = ["--backbone=efficientat", f"backbone.weights={NAME}", str(clip), f"--out={out}"]
    assert embed([*arguments, f"--packs={tmp_path / 'packs'}", "--workers=1"]) == 0
    assert np.load(out)["embeddings"].shape[1] == 96
    assert len(server.requests) == 1


def test_path_precedes_weights_folder_which_precedes_cache(
    server: Server, weights: PublishedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = find_published(weights)
    assert cached == tmp_path / "cache" / "weights" / FILE
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("ETUDE_WEIGHTS", str(folder))
    assert find_published(weights) == cached
    (folder / FILE).write_bytes(b"no weights")
    assert find_published(weights) == folder / FILE
    with pytest.raises(UserError, match=rf"own/{FILE}: cannot be read as weights"):
        EfficientAT(128, weights=NAME).initialise()
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_bytes(server.content)
    EfficientAT(128, weights=NAME).initialise()
    assert len(server.requests) == 1


def test_download_that_is_cut_off_is_resumed(
    server: Server, weights: PublishedWeights, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.sent = [200_000, 100_000, None]
    assert find_published(weights).read_bytes() == server.content
    assert [wanted for _, wanted in server.requests] == [None, "bytes=200000-", "bytes=300000-"]
    assert f"{FILE}: cut off after 200,000 of {len(server.content):,} bytes; the download is resumed" in caplog.text
    assert caplog.text.count("licence") == 1
    assert stored_names() == [FILE]


def test_redirected_download_is_resumed(server: Server, weights: PublishedWeights) -> None:
    server.redirects, server.sent = True, [200_000, None]
    assert find_published(weights).read_bytes() == server.content
    assert server.requests == [(f"/moved/files/{FILE}", None), (f"/moved/files/{FILE}", "bytes=200000-")]


def test_later_command_resumes_the_download(server: Server, weights: PublishedWeights) -> None:
    server.sent = [200_000, 0]
    with pytest.raises(
        UserError, match=r"cannot be downloaded \(cut off after 200,000 of [\d,]+ bytes\); try again, or"
    ):
        find_published(weights)
    assert part().read_bytes() == server.content[:200_000]
    assert find_published(weights).read_bytes() == server.content
    assert [wanted for _, wanted in server.requests] == [None, "bytes=200000-", "bytes=200000-"]


def test_interrupted_download_is_resumed(
    server: Server, weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(groups: Iterator[int], *args: Any) -> Iterator[int]:
        yield next(groups)
        raise KeyboardInterrupt

    server.content = server.content + bytes(1_500_000)
    weights = replace(weights, size=len(server.content), sha256=hashlib.sha256(server.content).hexdigest())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as error:
        patch.setattr("etude.files.published.streams.track", interrupt)
        find_published(weights)
    assert error.value.advice == "; the same command resumes the download"  # type: ignore[attr-defined]
    size = part().stat().st_size
    assert 1_000_000 <= size < len(server.content)
    assert find_published(weights).read_bytes() == server.content
    assert server.requests[1][1] == f"bytes={size}-"


@pytest.mark.parametrize("ranges", [True, False])
def test_server_without_ranges_sends_the_complete_file_again(
    ranges: bool, server: Server, weights: PublishedWeights
) -> None:
    server.sent, server.ranges = [200_000, 300_000, None], ranges
    assert find_published(weights).read_bytes() == server.content


def test_complete_part_needs_no_request(server: Server, weights: PublishedWeights) -> None:
    server.sent = [200_000, 0]
    with pytest.raises(UserError):
        find_published(weights)
    part().write_bytes(server.content)
    assert find_published(weights).read_bytes() == server.content
    assert len(server.requests) == 2


@pytest.mark.parametrize("known", [True, False])
def test_part_of_another_file_is_replaced(known: bool, server: Server, weights: PublishedWeights) -> None:
    weights = weights if known else replace(weights, size=None, sha256=None)
    server.sent = [200_000, 0]
    with pytest.raises(UserError):
        find_published(weights)
    part().write_bytes(bytes(100_000))
    assert find_published(weights).read_bytes() == server.content
    assert [wanted for _, wanted in server.requests[2:]] == ["bytes=100000-", None]


def test_part_longer_than_the_file_is_replaced(server: Server, weights: PublishedWeights) -> None:
    weights = replace(weights, size=None, sha256=None)
    server.sent = [200_000, 0]
    with pytest.raises(UserError):
        find_published(weights)
    part().write_bytes(bytes(2 * len(server.content)))
    assert find_published(weights).read_bytes() == server.content  # after status 416


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sha256": "0" * 64},
            r"the received file has the SHA-256 [0-9a-f]{12}\.\.\. instead of 000000000000\.\.\., and",
        ),
        ({"size": 5, "sha256": None}, r"it has [\d,]+ bytes instead of 5\)"),
    ],
)
def test_file_that_differs_from_the_published_one_is_refused(
    change: dict[str, Any], message: str, server: Server, weights: PublishedWeights
) -> None:
    with pytest.raises(UserError, match=message):
        find_published(replace(weights, **change))
    assert stored_names() == []


@pytest.mark.parametrize("damage", ["page", "bit"])
def test_damaged_file_without_checksum_is_refused(damage: str, server: Server, weights: PublishedWeights) -> None:
    content = bytearray(server.content)
    content[len(content) // 2] ^= 1
    server.content = bytes(content) if damage == "bit" else b"<html>log in to this network</html>"
    reason = "is damaged" if damage == "bit" else "is not a weights file"
    with pytest.raises(UserError, match=rf"the received file {reason}, and was removed"):
        find_published(replace(weights, size=None, sha256=None))
    assert stored_names() == []


def test_length_may_be_unknown(server: Server, weights: PublishedWeights, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.declared = False
    assert find_published(replace(weights, size=None, sha256=None)).read_bytes() == server.content
    assert "downloading unknown size from" in caplog.text


def test_missing_file_error_states_address_and_place(
    server: Server, weights: PublishedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 404
    message = (
        f"backbone.weights={NAME}: {server.address}/files/{FILE} cannot be downloaded (HTTP status 404); try again, or "
        "download it on another machine and store it as "
    )
    with pytest.raises(UserError, match=re.escape(f"{message}{tmp_path / 'cache' / 'weights' / FILE}") + "$"):
        find_published(weights)
    monkeypatch.setenv("ETUDE_WEIGHTS", str(tmp_path / "own"))
    with pytest.raises(UserError, match=re.escape(f"{message}{tmp_path / 'own' / FILE}") + "$"):
        find_published(weights)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "no address", "file:///nowhere"])
def test_unreachable_server_error_is_one_sentence(
    address: str, weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETUDE_WEIGHTS_URL", address)
    with pytest.raises(
        UserError, match=rf"^backbone\.weights={NAME}: {address}/{FILE} cannot be downloaded \(.+\); try"
    ):
        find_published(weights)


def test_silent_server_is_not_awaited_for_ever(
    server: Server, weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "TIMEOUT", 0.2)
    server.sent, server.delay = [1000, 0], 1.0
    with pytest.raises(UserError, match=r"cannot be downloaded \(no answer within 0\.2 s\)"):
        find_published(weights)
    assert part().read_bytes() == server.content[:1000]


def test_published_address_is_used_without_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ETUDE_WEIGHTS_URL", raising=False)
    release = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
    assert EFFICIENTAT["mn10_as"].address == f"{release}/mn10_as_mAP_471.pt"


def test_concurrent_runs_download_once(server: Server, weights: PublishedWeights) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(find_published, [weights] * 4))
    assert len(paths) == len(server.requests) == 1


@pytest.mark.usefixtures("server")
def test_unwritable_cache_error_names_the_variable(
    weights: PublishedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set the environment variable ETUDE_CACHE to another folder"):
        find_published(weights)


@pytest.mark.parametrize("name", EFFICIENTAT)
def test_widths_of_the_table_agree_with_the_lengths_of_files(name: str) -> None:
    with torch.device("meta"):
        net = EfficientAT(128, weights=name)
    assert net.width == EFFICIENTAT[name].options["width"]
    classifier = (net.dim + 1) * (hidden := net.dim * 4 // 3) + (hidden + 1) * 527
    values = sum(value.numel() for value in net.state_dict().values()) + classifier
    if (size := EFFICIENTAT[name].size) is not None:
        assert 4 * values < size < 4 * values + 130_000  # with the names and the alignment of 312 tensors
    assert bool(net.tag_names) == ("_as" in name)


def test_another_width_than_that_of_the_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.width=0\.4: backbone\.weights=mn10_as has width 1; set backbone\."):
        EfficientAT(128, width=0.4, weights="mn10_as")


def test_weights_trained_on_images_have_no_tags(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mn01_im.pt").write_bytes(content)
    net = EfficientAT(128, weights=str(tmp_path / "mn01_im.pt"))  # the name of the file states its width
    net.initialise()
    assert net.width == 0.1 and not net.tag_names and net.skips_standardisation
    with pytest.raises(UserError, match="the file has no classifier"):
        net.tag_probabilities(torch.rand(1, 9, 128), torch.tensor([9]))


def test_unknown_name_error_lists_the_names() -> None:
    with pytest.raises(
        UserError, match=r"weights=mn03: there is no such weights file; set mn04_as, mn01_as, mn02_as, "
    ):
        EfficientAT(128, weights="mn03").initialise()
    with pytest.raises(UserError, match=r"must be imagenet, audioset, untrained or the path of a file, got 'mn03'"):
        AST(128, weights="mn03").initialise()


def test_named_ast_requires_its_model() -> None:
    with pytest.raises(UserError, match=r"set backbone\.model=deit_base_distilled_patch16_384$"):
        AST(128, weights="audioset")


def table_rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the rows of the first table after a heading, without code marks."""
    text = (ROOT / page).read_text("utf-8").partition(heading)[2]
    table = re.search(r"(?m)^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text)
    assert table is not None
    return [[cell.strip().strip("`") for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


def test_documented_tables_are_those_of_the_code() -> None:
    rows = table_rows("docs/explanations/pretrained-networks.md", "## Weights by name")
    expected = [
        [
            f"backbone={backbone} backbone.weights={entry.name}",
            entry.file,
            *("-" if entry.size is None else f"{entry.size / 1e6:.1f} MB", entry.trained_on, entry.licence),
            "SHA-256" if entry.sha256 else "length" if entry.size else "internal checksums",
        ]
        for backbone, table in (("efficientat", EFFICIENTAT), ("ast", published.AST))
        for entry in table.values()
    ]
    assert rows == expected
    rows = table_rows("docs/how-to/hugging-face.md", "## Published checkpoints")
    assert [(row[0], row[5]) for row in rows] == [(name, model.licence) for name, model in HUB_MODELS.items()]
