"""The hub, as its client speaks to it: a stand-in that takes what it is given."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from etude.cli.export import main
from etude.errors import UserError
from etude.export.export import push


class Hub(BaseHTTPRequestHandler):
    """Makes repositories, asks for every file in the commit itself, and takes commits."""

    heard: list[tuple[str, Any]]
    token = "Bearer hf_abc"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers["Authorization"] != self.token:
            return self._say({"error": "Invalid credentials"}, 401)
        lines = [json.loads(line) for line in body.splitlines() if line]
        self.heard.append((self.path, lines))
        if self.path.endswith("/create"):
            return self._say({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"})
        if "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in lines[0]["files"]]
            return self._say({"files": files})
        if "/commit/" in self.path:
            return self._say(
                {
                    "success": True,
                    "commitUrl": f"http://{self.headers['Host']}/me/model/commit/1",
                    "commitOid": "1",
                    "hookOutput": "",
                }
            )
        return self._say({"warnings": [], "errors": []})

    def do_GET(self) -> None:
        self._say({"id": "me/model", "sha": "0", "siblings": []})

    def _say(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """What the stand-in hears while the client is told that it is the hub."""
    from huggingface_hub import constants

    Hub.heard = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_abc")
        yield Hub.heard
        server.shutdown()
        thread.join()


def test_the_hub_gets_the_files_of_an_export_and_no_others(
    checkpoint: Path, tmp_path: Path, heard: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    line = [str(checkpoint), "format=safetensors", f"to={tmp_path}", "push=me/model", "private=true"]
    assert main(line) == 0, capsys.readouterr().err
    (created,) = [lines[0] for path, lines in heard if path.endswith("/create")]
    assert created["name"] == "model" and created["organization"] == "me"
    assert created.get("private") is True or created.get("visibility") == "private"
    (commit,) = [lines for path, lines in heard if "/commit/" in path]
    sent = {one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in commit if one["key"] == "file"}
    assert sent == {name: (tmp_path / name).read_bytes() for name in ("README.md", "config.json", "model.safetensors")}


def test_what_the_hub_refuses_is_one_sentence_and_stays_here(
    heard: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    (tmp_path / "README.md").write_text("# A card")
    with pytest.raises(UserError, match=r"^push=me/model: the hub did not take it \(.*401.*what was exported is here$"):
        push("me/model", [tmp_path / "README.md"])
    assert heard == []


def test_without_a_token_nothing_is_made(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main([str(checkpoint), f"to={tmp_path / 'to'}", "push=me/model"]) == 2
    assert "there is no token of the Hugging Face hub; set HF_TOKEN, or run: hf auth login" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
