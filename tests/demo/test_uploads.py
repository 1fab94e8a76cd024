"""Tests of the storage of uploads, its limits, and incomplete or slow requests."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.demo.asgi import Response, form, request

from etude.demo import uploads as module
from etude.demo.request_filter import RequestFilter, host_rules
from etude.demo.uploads import ENVELOPE, RequestError, Uploads

pytest.importorskip("starlette")
pytest.importorskip("python_multipart")
LARGEST = 100_000


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Uploads(tmp_path / "uploads", LARGEST, max_files=5, max_total=3 * LARGEST)


def remaining(uploads: Uploads) -> list[Path]:
    """Return all files and folders in the upload folder and the temporary folder."""
    return [*uploads.folder.rglob("*"), *(uploads.folder.parent / "temporary").rglob("*")]


def post(uploads: Uploads, content: bytes, name: str = "song.wav", **more: Any) -> Response:
    async def app(*_: Any) -> None:
        raise AssertionError("an upload reached gradio")

    headers, body = form(content, name, more.pop("field", "files"))
    blocks = more.pop("body", [body[i : i + 1000] for i in range(0, len(body), 1000)])
    return request(
        RequestFilter(app, host_rules("localhost"), uploads, {}), "POST", "/gradio_api/upload", query="upload_id=1",
        headers=[*headers, *more.pop("headers", [])], body=blocks, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "display_name", "suffix"),
    [
        ("50% of %20 #1.wav", "50% of %20 #1.wav", ".wav"),
        ("../../.ssh/authorized_keys", "authorized_keys", ""),
        ("..", "..", ""),
        ("C:\\music\\a.MP3", "a.MP3", ".mp3"),
        ("<script>.ogg\x1b", "<script>.ogg", ".ogg"),
        ("a.wav;b/", "sound", ""),
        pytest.param("x" * 300 + ".flac", "x" * 195 + ".flac", ".flac", id="long"),
    ],
)
def test_upload_is_stored_under_a_name_of_the_server(
    uploads: Uploads, name: str, display_name: str, suffix: str
) -> None:
    answer = post(uploads, b"content of a sound", name)
    (path,) = json.loads(answer.body)
    upload = uploads.find(path)
    assert answer.status == 200 and upload is not None and upload.name == display_name
    assert upload.path.name == f"sound{suffix}" and upload.path.parent.parent == uploads.folder
    assert upload.path.read_bytes() == b"content of a sound" and upload.size == 18


def test_oldest_uploads_are_removed_by_number(uploads: Uploads) -> None:
    paths = [json.loads(post(uploads, b"%d" % k).body)[0] for k in range(20)]
    assert [path for path in paths if uploads.find(path)] == paths[-5:]
    assert len(list(uploads.folder.iterdir())) == 5


def test_oldest_uploads_are_removed_by_bytes(uploads: Uploads) -> None:
    paths = [json.loads(post(uploads, b"x" * (LARGEST - 10)).body)[0] for _ in range(6)]
    assert [path for path in paths if uploads.find(path)] == paths[-3:]
    assert sum(path.stat().st_size for path in uploads.folder.rglob("*") if path.is_file()) <= 3 * LARGEST


def test_unused_uploads_are_removed_by_age(uploads: Uploads) -> None:
    post(uploads, b"sound")
    uploads.expire()
    assert len(uploads) == 1
    uploads.expire(max_age=-1)
    assert len(uploads) == 0 and not remaining(uploads)


def test_only_own_files_are_removed(uploads: Uploads) -> None:
    (path,) = json.loads(post(uploads, b"sound").body)
    beside = Path(path).with_name("notes.txt")
    beside.write_text("of another program")
    Path(path).unlink()
    Path(path).write_text("a file that replaced it")
    uploads.clear()
    assert beside.exists() and Path(path).exists() and not len(uploads)


def test_too_large_upload_is_refused_while_reading(uploads: Uploads) -> None:
    read = 0

    class Endless(list[bytes]):
        def pop(self, *_: Any) -> bytes:  # type: ignore[override]
            nonlocal read
            read += 1
            return form(b"")[1][:-12] if read == 1 else b"x" * 10_000

        def __bool__(self) -> bool:
            return True

    request_filter = RequestFilter(lambda *_: None, host_rules("localhost"), uploads, {})  # type: ignore[arg-type]
    blocks = Endless()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": blocks.pop(), "more_body": True}

    answer: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        answer.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b"",
        "headers": [(b"host", b"localhost"), *form(b"")[0]],
    }  # fmt: skip
    asyncio.run(request_filter(scope, receive, send))  # type: ignore[arg-type]
    assert answer[0]["status"] == 413 and read <= (LARGEST + ENVELOPE) / 10_000 + 2 and not remaining(uploads)


def test_too_large_upload_is_refused_by_its_stated_length(uploads: Uploads) -> None:
    stated = post(uploads, b"sound", headers=[(b"content-length", str(LARGEST + ENVELOPE + 1).encode())])
    assert stated.status == 413 and b"larger than 0.0954 MB" in stated.body
    assert post(uploads, b"sound", headers=[(b"content-length", b"-1")]).status == 413
    assert post(uploads, b"x" * (LARGEST + 1)).status == 413 and not remaining(uploads)
    assert post(uploads, b"x" * LARGEST).status == 200


def test_incomplete_upload_leaves_no_files(uploads: Uploads) -> None:
    _, body = form(b"x" * 50_000)
    answer = post(uploads, b"", body=[body[:30_000]], cut=True)
    assert answer.status == 400 and not remaining(uploads) and uploads._receiving == 0
    answer = post(uploads, b"", body=[body[:30_000]])  # without the end of the form
    assert answer.status in (200, 400)
    assert answer.status == 400 or uploads.find(json.loads(answer.body)[0])


def test_upload_that_stalls_is_refused(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_TIMEOUT", 0.0)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope: Any = {"type": "http", "method": "POST", "headers": form(b"")[0]}
    with pytest.raises(RequestError, match="stopped before it was complete"):
        asyncio.run(uploads.receive(scope, receive))
    assert not remaining(uploads)


@pytest.mark.parametrize("field", ["other", "file"])
def test_form_without_the_file_is_refused(uploads: Uploads, field: str) -> None:
    assert post(uploads, b"sound", field=field).status == 400 and not remaining(uploads)


def test_request_that_is_not_a_form_is_refused(uploads: Uploads) -> None:
    _, body = form(b"sound")
    two_files = body.replace(b"--edge--\r\n", b"") + body
    field = b'--edge\r\nContent-Disposition: form-data; name="files"\r\n\r\nsound\r\n--edge--\r\n'
    for blocks in ([two_files], [field], [b"no form"], [b""]):
        assert post(uploads, b"", body=blocks).status == 400
    scope: Any = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(RequestError, match="multipart form"):
        asyncio.run(uploads.receive(scope, None))  # type: ignore[arg-type]
    assert not remaining(uploads)


def test_number_of_simultaneous_uploads_is_limited(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECEIVING", 0)
    assert post(uploads, b"sound").status == 503


def test_full_disk_is_reported(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", raise_no_space)
    with pytest.raises(RequestError, match=r"cannot be stored \(No space left on device\)") as error:
        uploads.add("song.wav", 5, io.BytesIO(b"sound"))
    assert error.value.status == 507 and not remaining(uploads)
