"""From a name to a folder: paths, presets, and a hub repository served on loopback."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from arimage import hub


def test_paths_and_presets(tmp_path):
    assert hub.locate(tmp_path) == tmp_path
    assert (hub.locate("digits-var") / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits-vra", ["unknown preset 'digits-vra'", "Did you mean 'digits-var'"]),
        ("./no/such/folder", ["./no/such/folder", "folder that exists"]),
    ],
)
def test_what_is_nowhere_gets_one_sentence(name, words):
    with pytest.raises(FileNotFoundError) as error:
        hub.locate(name)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="is a file"):
        hub.locate(tmp_path / "x.safetensors")


def test_offline_and_not_cached_says_which_repository():
    with pytest.raises(
        FileNotFoundError, match="cannot get 'nobody/nothing' from the hub"
    ) as error:
        hub.locate("nobody/nothing")
    assert "\n" not in str(error.value)


LOOPBACK = """
import json, os, sys, tempfile, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SHA = "0123456789abcdef0123456789abcdef01234567"
folder = Path(sys.argv[1])
files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
files["evil.bin"] = b"a pickle, say"
asked = []


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        asked.append(self.path)
        name = self.path.partition("/resolve/" + SHA + "/")[2]
        if self.path.startswith("/api/models/me/toy/tree/"):
            entries = [
                {"type": "file", "path": f, "size": len(b), "oid": "0"} for f, b in files.items()
            ]
            self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
        elif self.path.startswith("/api/models/me/toy"):
            siblings = [{"rfilename": f} for f in files]
            record = {"_id": "1", "id": "me/toy", "sha": SHA, "siblings": siblings}
            self.answer(200, json.dumps(record).encode(), Content_Type="application/json")
        elif name in files:
            self.answer(200, files[name], ETag='"%d"' % abs(hash(name)), X_Repo_Commit=SHA)
        else:
            self.answer(404, b"", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=tempfile.mkdtemp(),
    HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", NO_PROXY="127.0.0.1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
from arimage import ImageGenerator

ids = ImageGenerator.from_pretrained("me/toy")([3], seeds=[1]).ids.tolist()
again = ImageGenerator.from_pretrained("me/toy", revision=SHA)([3], seeds=[1]).ids.tolist()
from arimage import hub
index = json.loads(hub.fetch("me/toy", "model_index.json", hub.Access(revision=SHA)).read_text())
try:
    hub.fetch("me/toy", "nothing.pth", hub.Access(revision=SHA))
    absent = ""
except FileNotFoundError as error:
    absent = str(error)
try:
    ImageGenerator.from_pretrained("me/missing")
    missing = ""
except FileNotFoundError as error:
    missing = str(error)
opened = any("evil.bin" in path for path in asked)
record = {"index": index, "absent": absent}
print(json.dumps({**record, "ids": ids, "again": again, "missing": missing, "opened": opened}))
"""


def test_a_hub_repository_loads_and_its_pickles_are_left_alone(tmp_path):
    from arimage import ImageGenerator
    from arimage.pretrained import default_dtype

    script = tmp_path / "loopback.py"
    script.write_text(textwrap.dedent(LOOPBACK))
    folder = hub.locate("digits-var")
    done = subprocess.run(
        [sys.executable, str(script), str(Path(folder))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(done.stdout.strip().splitlines()[-1])
    expected = ImageGenerator.from_pretrained("digits-var", dtype=default_dtype("cpu"))(
        [3], seeds=[1]
    ).ids.tolist()
    assert record["ids"] == record["again"] == expected
    assert "me/missing" in record["missing"]
    assert record["index"]["_class_name"] == "ImageGenerator"
    assert "the file nothing.pth of the hub repository me/toy" in record["absent"]
    assert not record["opened"]
