"""Where a rank finds its model: a snapshot of a repository by the hub's own client, or the sentence why not.

The hub here is a server on this machine that speaks the calls that the client makes, and wants a token.
"""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.manifest.manifests import sd3_folder
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import HubModel, Model
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.model_source import model_folder

COMMIT = "c0ffee" * 6 + "c0ff"
TOKEN = "hf_let_me_in"


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository a/b with a tag v1; every call needs the token."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"no", {"X-Error-Code": "GatedRepo"})
            return
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        if path == "/api/models/a/b/revision/v1":
            siblings = [{"rfilename": str(file.relative_to(self.folder))} for file in files]
            told = {"id": "a/b", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})
        elif path == f"/api/models/a/b/tree/{COMMIT}":
            entries = [
                {
                    "type": "file",
                    "path": str(file.relative_to(self.folder)),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/a/b/resolve/"):
            file = self.folder / path.removeprefix("/a/b/resolve/").partition("/")[2]
            content = file.read_bytes()
            self._send(200, content, {"ETag": hashlib.sha256(content).hexdigest(), "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a model folder as the repository a/b, to a client with an empty cache."""
    from huggingface_hub import constants

    folder = sd3_folder(tmp_path / "served")
    handler = type("HubOfThisTest", (Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield folder
    server.shutdown()
    server.server_close()


def hub_model(revision: str = "v1") -> Model:
    return Model(hub=HubModel(repo="a/b", revision=revision))


def test_a_revision_is_fetched_whole_with_the_token(hub: Path) -> None:
    folder = Path(model_folder(hub_model()))
    assert folder.name == COMMIT
    served = {str(file.relative_to(hub)): file.read_bytes() for file in hub.rglob("*") if file.is_file()}
    assert {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()} == served


def test_without_the_token_the_sentence_names_the_field(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BadInputError, match=r"spec\.model\.source\.huggingFace: expected a/b at v1, .*tokenSecret"):
        model_folder(hub_model())


def test_a_revision_that_there_is_not_is_named(hub: Path) -> None:
    with pytest.raises(BadInputError, match=r"expected a/b at v9, got: .*check repo, revision"):
        model_folder(hub_model("v9"))


def test_offline_the_sentence_says_what_to_do(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInputError, match=r"huggingFace: expected a/b at v1, got: .*or use a persistentVolumeClaim"):
        model_folder(hub_model())
