"""Tests of accepted and refused routes, files, host names and origins of the demo."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.demo.asgi import Response, form, request

from etude.demo.request_filter import RequestFilter, host_rules
from etude.demo.uploads import Upload, Uploads

pytest.importorskip("starlette")
META = {"_type": "gradio.FileData"}
CALLS = {0: [True], 3: [False, False, False], 5: []}


class Recorder:
    """Application that records the requests that it receives."""

    def __init__(self) -> None:
        self.paths: list[tuple[str, str]] = []
        self.bodies: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append((scope["path"], scope["query_string"].decode()))
        if scope["method"] == "POST":
            self.bodies.append(json.loads((await receive())["body"]))
        allowed = [(b"access-control-allow-origin", b"*"), (b"access-control-allow-credentials", b"true")]
        await send({"type": "http.response.start", "status": 200, "headers": allowed})
        await send({"type": "http.response.body", "body": b"answered"})


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    (tmp_path / "uploads").mkdir()
    return Uploads(tmp_path / "uploads", 1000)


@pytest.fixture
def request_filter(app: Recorder, uploads: Uploads) -> RequestFilter:
    return RequestFilter(app, host_rules("127.0.0.1"), uploads, CALLS)


@pytest.fixture
def upload(uploads: Uploads) -> Upload:
    return uploads.add("50% of %20 #1.wav", 5, io.BytesIO(b"sound"))


def call(request_filter: RequestFilter, data: Any, index: Any = 0, **more: Any) -> Response:
    body = {"data": data, "fn_index": index, "trigger_id": 2, "session_hash": "abc", **more}
    return request(request_filter, "POST", "/gradio_api/queue/join", body=[json.dumps(body).encode()])


def test_only_the_path_of_an_upload_is_passed(request_filter: RequestFilter, app: Recorder, upload: Upload) -> None:
    file = {
        "path": str(upload.path),
        "url": "http://192.0.2.1/x.wav",
        "orig_name": "<b>",
        "is_stream": True,
        "meta": META,
    }
    assert (
        call(request_filter, [file], event_data={"path": "/etc/passwd", "meta": META}, simple_format=True).status == 200
    )
    own = {"path": str(upload.path), "orig_name": "50% of %20 #1.wav", "size": 5, "meta": META}
    expected = {"data": [own], "fn_index": 0, "trigger_id": 2, "session_hash": "abc", "event_data": None}
    assert app.bodies == [expected]


def test_call_with_file_that_was_not_uploaded_is_refused(
    request_filter: RequestFilter, app: Recorder, uploads: Uploads, upload: Upload, tmp_path: Path
) -> None:
    private = tmp_path / "private.wav"
    private.write_bytes(b"private")
    folder = upload.path.parent
    (folder / "beside.wav").write_bytes(b"of another program")
    (folder / "link.wav").symlink_to(private)
    os.link(private, folder / "hard.wav")
    alias = tmp_path / "alias"
    alias.symlink_to(uploads.folder)
    paths = [
        str(private), f"{upload.path}/../../../private.wav", f"{folder}/../{folder.name}/{upload.path.name}",
        str(folder / "beside.wav"), str(folder / "link.wav"), str(folder / "hard.wav"), str(folder), "",
        str(alias / folder.name / upload.path.name), os.path.relpath(upload.path), f"file://{upload.path}",
        f"/gradio_api/file={upload.path}", "http://192.0.2.1/x.wav", "https://example.com/x.wav",
        "data:audio/wav;base64,AA", f"{upload.path}\0", None, 1, [str(upload.path)],
    ]  # fmt: skip
    for path in paths:
        for url in ({}, {"url": "http://192.0.2.1/x.wav"}, {"url": f"/gradio_api/file={upload.path}"}):
            answer = call(request_filter, [{"path": path, "meta": META, **url}])
            assert answer.status == 403 and b"was not uploaded to this page" in answer.body, path
    for value in (str(private), [{"path": str(upload.path), "meta": META}], {"meta": META}, {"url": str(upload.path)}):
        assert call(request_filter, [value]).status == 403, value
    assert not app.bodies


def test_upload_that_was_replaced_by_a_link_is_not_found(
    request_filter: RequestFilter, uploads: Uploads, upload: Upload, tmp_path: Path
) -> None:
    private = tmp_path / "private.wav"
    private.write_bytes(b"private")
    upload.path.unlink()
    upload.path.symlink_to(private)
    assert call(request_filter, [{"path": str(upload.path), "meta": META}]).status == 403
    assert request(request_filter, "GET", f"/gradio_api/file={upload.path}").status == 404
    uploads.clear()
    assert private.read_bytes() == b"private" and upload.path.is_symlink()  # the server created neither of them


@pytest.mark.parametrize(
    ("data", "index", "more"),
    [
        ([{"path": "/etc/passwd", "meta": META}, 0, "genre"], 3, {}),  # a file for an input that is not a file
        ([None, [0], "genre"], 3, {}),
        ([None, 0, "g" * 1001], 3, {}),
        ([None], 3, {}),
        ([], 4, {}),
        ([], True, {}),
        ([], "5", {}),
        ([], None, {}),
        ({}, 5, {}),
        ([], 5, {"trigger_id": "2"}),
        ([], 5, {"session_hash": "../x"}),
        ([], 5, {"session_hash": None}),
    ],
)
def test_malformed_call_is_refused(
    request_filter: RequestFilter, app: Recorder, data: Any, index: Any, more: dict[str, Any]
) -> None:
    answer = call(request_filter, data, index, **more)
    assert (answer.status, answer.body) == (400, b"This is not a valid call of this page.") and not app.paths


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"[" * 60_000, b"\xff\xfe"], ids=lambda body: str(body[:3])
)
def test_call_that_is_not_json_is_refused(request_filter: RequestFilter, app: Recorder, body: bytes) -> None:
    assert request(request_filter, "POST", "/gradio_api/queue/join", body=[body]).status == 400 and not app.paths


def test_call_for_attributions_is_passed(request_filter: RequestFilter, app: Recorder) -> None:
    assert call(request_filter, [None, 0, "genre"], 3).status == 200 and app.bodies[0]["data"] == [None, 0, "genre"]


def test_size_limit_of_a_call_is_enforced_while_reading(request_filter: RequestFilter, app: Recorder) -> None:
    blocks = [b" " * 60_000] * 1000
    assert request(request_filter, "POST", "/gradio_api/queue/join", body=blocks).status == 413
    stated = request(request_filter, "POST", "/gradio_api/queue/join", headers=[(b"content-length", b"99999999")])
    assert stated.status == 413 and not app.paths


def test_routes_of_the_page_are_passed(request_filter: RequestFilter, app: Recorder, upload: Upload) -> None:
    routes = [
        ("/", ""), ("/config", ""), ("/assets/index.js", ""), ("/theme.css", "v=ef2d"), ("/favicon.ico", ""),
        ("/gradio_api/heartbeat/a1b2", ""), ("/gradio_api/queue/data", "session_hash=a1b2"),
        (f"/gradio_api/file={upload.path}", ""),
    ]  # fmt: skip
    for path, query in routes:
        assert request(request_filter, "GET", path, query=query).status == 200, path
    assert app.paths == routes


@pytest.mark.parametrize("path", ["/", "/config"])
def test_queries_that_restore_a_stored_page_are_dropped(
    request_filter: RequestFilter, app: Recorder, path: str
) -> None:
    request(request_filter, "GET", path, query="deep_link=abc&page=x")
    assert app.paths == [(path, "")]


def test_all_other_routes_are_refused(
    request_filter: RequestFilter, app: Recorder, upload: Upload, tmp_path: Path
) -> None:
    (tmp_path / "private.wav").write_bytes(b"private")
    (upload.path.parent / "beside.wav").write_bytes(b"of another program")
    for path in (
        "/gradio_api/file=https://example.com/x", f"/gradio_api/file={tmp_path}/private.wav",
        "/gradio_api/file=/etc/passwd", f"/gradio_api/file={upload.path.parent}/beside.wav",
        f"/gradio_api/file={upload.path.parent}/../x", f"/file={upload.path}", f"/gradio_api/file/{upload.path}",
        "/gradio_api/proxy=https://x.hf.space", "/docs", "/openapi.json", "/monitoring", "/monitoring/summary",
        "/gradio_api/vibe-code", "/gradio_api/info", "/gradio_api/openapi.json", "/login", "/login_check", "/token",
        "/gradio_api/deep_link", "/gradio_api/call/predict", "/gradio_api/call/predict/1",
        "/gradio_api/queue/status", "/gradio_api/runs", "/gradio_api/stream/a/b/1/playlist.m3u8",
        "/gradio_api/dev/reload", "/gradio_api/startup-events", "/gradio_api/custom_component/a/b/c/d",
        "/gradio_api/mcp", "/pwa_icon", "//", "/gradio_api/heartbeat/../info",
    ):  # fmt: skip
        assert request(request_filter, "GET", path).status == 404, path
    for path in (
        "/gradio_api/run/predict", "/gradio_api/api/predict", "/gradio_api/call/predict",
        "/gradio_api/call/v2/predict", "/gradio_api/component_server", "/gradio_api/component_server/",
        "/gradio_api/process_recording", "/gradio_api/reset", "/gradio_api/cancel", "/gradio_api/stream/1",
        "/gradio_api/vibe-edit", "/gradio_api/queue/join/", "/gradio_api/upload/", "/login", "/",
    ):  # fmt: skip
        assert request(request_filter, "POST", path).status == 404, path
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH"):
        assert request(request_filter, method, "/gradio_api/queue/join").status == 404, method
    assert not app.paths


@pytest.mark.parametrize(
    "origin", ["http://example.com", "null", "http://127.0.0.1:9000", "http://localhost:7860", "[", ""]
)
def test_other_origins_are_refused(request_filter: RequestFilter, app: Recorder, uploads: Uploads, origin: str) -> None:
    origins = [(b"origin", origin.encode())]
    headers, body = form(b"sound")
    assert (
        request(request_filter, "POST", "/gradio_api/upload", headers=[*headers, *origins], body=[body]).status == 403
    )
    assert request(request_filter, "POST", "/gradio_api/queue/join", headers=origins).status == 403
    assert request(request_filter, "GET", "/", headers=origins).status == 403
    assert not app.paths and not len(uploads)


def test_own_origin_is_passed_without_cors_headers(request_filter: RequestFilter) -> None:
    answer = request(
        request_filter, "GET", "/", headers=[(b"origin", b"http://127.0.0.1:7860"), (b"sec-fetch-site", b"same-origin")]
    )
    assert answer.status == 200 and not [key for key in answer.headers if key.startswith("access-control")]
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
def test_only_links_of_other_pages_are_passed(request_filter: RequestFilter, site: bytes) -> None:
    image = [(b"sec-fetch-site", site), (b"sec-fetch-mode", b"no-cors"), (b"sec-fetch-dest", b"image")]
    link = [(b"sec-fetch-site", site), (b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document")]
    frame = [*link[:2], (b"sec-fetch-dest", b"iframe")]
    assert [request(request_filter, "GET", "/", headers=headers).status for headers in (image, frame, link)] == [
        403,
        403,
        200,
    ]
    assert request(request_filter, "GET", "/config", headers=link).status == 403


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example.com:7860", "localhost@example.com", "192.168.1.5:7860", ""]
)
def test_other_host_names_of_a_local_server_are_refused(
    request_filter: RequestFilter, app: Recorder, host: str
) -> None:
    answer = request(request_filter, "GET", "/", headers=[(b"host", host.encode())])
    assert answer.status == 403 and b"restart it with --host " in answer.body and not app.paths


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"])
def test_local_host_names_are_passed(request_filter: RequestFilter, host: str) -> None:
    assert request(request_filter, "GET", "/", headers=[(b"host", host.encode())]).status == 200


def test_request_must_have_one_host(request_filter: RequestFilter) -> None:
    for hosts in ([(b"host", b"localhost"), (b"host", b"example.com")],):
        assert request(request_filter, "GET", "/", headers=hosts).status == 403


def test_public_server_accepts_addresses_and_its_names_only() -> None:
    rules = host_rules("studio.example")
    assert rules.accept("studio.example") and rules.accept("192.168.1.5") and rules.accept("fe80::1")
    assert not rules.accept("attacker.example")  # a rebound name
    assert host_rules("0.0.0.0").accept("10.0.0.1") and not host_rules("0.0.0.0").accept("attacker.example")
