"""Uploads to a local fake of the Hugging Face Hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.commands import export as main

from etude.errors import UserError
from etude.export.export import push


class FakeHub(BaseHTTPRequestHandler):
    """HTTP handler that creates repositories, requests all files inside commits, and accepts commits."""

    requests: list[tuple[str, Any]]
    token = "Bearer hf_abc"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers["Authorization"] != self.token:
            return self._reply({"error": "Invalid credentials"}, 401)
        lines = [json.loads(line) for line in body.splitlines() if line]
        self.requests.append((self.path, lines))
        if self.path.endswith("/create"):
            return self._reply({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]
            ]
            return self._reply({"files": files})
        if "/commit/" in self.path:
            return self._reply(
                {
                    "success": True,
                    "commitUrl": f"http://{self.headers['Host']}/me/model/commit/1",
                    "commitOid": "1",
                    "hookOutput": "",
                }
            )
        return self._reply({"warnings": [], "errors": []})

    def do_GET(self) -> None:
        self._reply({"id": "me/model", "sha": "0", "siblings": []})

    def _reply(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """Requests to a fake Hub, which the client uses instead of the Hub."""
    from huggingface_hub import constants

    FakeHub.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_abc")
        yield FakeHub.requests
        server.shutdown()
        thread.join()


def test_only_exported_files_are_uploaded(
    checkpoint: Path, tmp_path: Path, hub_requests: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "diary.txt").write_text("private")
    arguments = [str(checkpoint), "--format=safetensors", f"--out={tmp_path}", "--push=me/model", "--private"]
    assert main(arguments) == 0, capsys.readouterr().err
    (created,) = [lines[0] for path, lines in hub_requests if path.endswith("/create")]
    assert created["name"] == "model" and created["organization"] == "me"
    assert created.get("private") is True or created.get("visibility") == "private"
    (commit,) = [lines for path, lines in hub_requests if "/commit/" in path]
    sent = {
        entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
        for entry in commit
        if entry["key"] == "file"
    }
    assert sent == {name: (tmp_path / name).read_bytes() for name in ("README.md", "config.json", "model.safetensors")}


def test_refused_upload_is_reported_and_files_remain(
    hub_requests: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    (tmp_path / "README.md").write_text("# A card")
    with pytest.raises(
        UserError, match=r"^--push me/model: the upload failed \(.*401.*\); the exported files are in .*$"
    ):
        push("me/model", [tmp_path / "README.md"])
    assert hub_requests == []


def test_nothing_is_exported_without_token(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main([str(checkpoint), f"--out={tmp_path / 'out'}", "--push=me/model"]) == 2
    assert "no token for the Hugging Face Hub; set HF_TOKEN, or run: hf auth login" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
