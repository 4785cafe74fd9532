"""A small hub on loopback, for tests: repositories with branches, commits and pull requests, LFS,
redirects, ETags, ranges, tokens, and failures on demand.

It speaks what ``huggingface_hub`` 1.x and 2.x ask for, without Xet. ``MINE`` may write to every
repository; who sends no token reads public ones.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hub_store import LFS_BYTES, Blob, Repository, git_oid, is_large

MINE = "hf_mine"
STRANGER = "hf_stranger"  # reads what is public, writes nowhere


def hang_up(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was quicker


class Hub:
    """The server; ``log`` has (method, path, range, status) of every request."""

    def __init__(self):
        self.repositories, self.lfs, self.faults, self.log = {}, {}, [], []
        self.port, self.open = 0, set()
        self.start()

    def start(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """Nobody answers at its address until ``start``."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.open):
            hang_up(connection)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def clear(self):
        """As new, at the same address."""
        self.repositories.clear()
        self.lfs.clear()
        self.faults.clear()
        self.log.clear()

    def add(self, repo_id, files, branch="main", **options):
        """A commit from outside: files as bytes by name."""
        blobs = {}
        for name, data in files.items():
            oid = hashlib.sha256(data).hexdigest() if is_large(name, data) else None
            blobs[name] = Blob(data, oid)
            if oid:
                self.lfs[oid] = data
        repository = self.repositories.setdefault(repo_id, Repository(**options))
        return repository.commit(blobs, branch)

    def asked(self, pattern):
        """The logged requests whose "METHOD path" has a pattern."""
        return [row for row in self.log if re.search(pattern, f"{row[0]} {row[1]}")]

    def contents(self):
        """Requests that were answered with the content of a file."""
        return [row for row in self.asked("^GET .*/resolve/|^GET /cdn/") if row[3] in (200, 206)]

    def fault(self, request):
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None


def environment(hub, home):
    """Variables to set before ``huggingface_hub`` is imported."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": MINE,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def serve(home):
    """A hub whose address and home are set for this process."""
    hub = Hub()
    os.environ.update(environment(hub, home))
    return hub


ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>.+)", "branch"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)", "preupload"),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]+)", "upload"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>.+)", "commit"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+|refs/pr/\d+)", "tree"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>.+)", "info"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)", "info"),
    ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "resolve"),
    ("GET", r"/cdn/(?P<oid>[0-9a-f]+)", "cdn"),
)


class Refused(Exception):
    """An answer that is an error: status and the hub's error code."""

    def __init__(self, status, code="", **headers):
        super().__init__(status)
        self.status, self.headers = status, {**({"X-Error-Code": code} if code else {}), **headers}


def handler(hub):
    """The class that answers for a hub."""

    class Handler(Answers, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def setup(self):
            super().setup()
            hub.open.add(self.connection)

        def finish(self):
            hub.open.discard(self.connection)
            super().finish()

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = lambda self: self.route()

    Handler.hub = hub
    return Handler


class Answers:
    """One method per endpoint."""

    def route(self):
        address = urllib.parse.urlparse(self.path)
        self.address = urllib.parse.unquote(address.path)
        self.query = urllib.parse.parse_qs(address.query)
        self.body, self.status = self.read(), None
        fault = self.hub.fault(f"{self.command} {self.address}")
        self.broken = fault if fault and (fault.cut or fault.change) else None
        try:
            if fault and fault.status:
                raise Refused(fault.status, **fault.headers)
            method = "GET" if self.command == "HEAD" else self.command
            for verb, pattern, name in ROUTES:
                match = re.fullmatch(pattern, self.address)
                if match and verb == method:
                    getattr(self, name)(**match.groupdict())
                    break
            else:
                raise Refused(404)
        except Refused as refusal:
            self.send(refusal.status, {"error": f"refused {refusal.status}"}, **refusal.headers)

    def read(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while count := int(self.rfile.readline(), 16):
            body += self.rfile.read(count)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status, data=b"", kind="application/json", **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        row = (self.command, self.address, self.headers.get("Range"), status)
        self.hub.log.append(row)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **headers}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.broken and self.broken.change:
            data = self.broken.change(data)
        if self.broken and self.broken.cut:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            hang_up(self.connection)
            self.close_connection = True
            return
        self.wfile.write(data)

    @property
    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def repository(self, name, write=False):
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.token != MINE):
            raise Refused(404 if self.token else 401, "RepoNotFound")
        if write and self.token != MINE:
            raise Refused(403 if self.token else 401)
        return found

    def whoami(self):
        if not self.token:
            raise Refused(401)
        role = {"accessToken": {"role": "write"}}
        self.send(200, {"type": "user", "name": "me", "fullname": "me", "orgs": [], "auth": role})

    def validate(self):
        self.send(200, {"errors": [], "warnings": []})

    def create(self):
        if self.token != MINE:
            raise Refused(403 if self.token else 401)
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        record = {"url": f"{self.hub.url}/{name}", "id": name, "name": name}
        if name in self.hub.repositories:
            return self.send(409, {**record, "error": "You already created this repository"})
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=private)
        self.hub.repositories[name].commit({".gitattributes": Blob(b"*.safetensors lfs\n")})
        return self.send(200, record)

    def branch(self, repo, branch):
        found = self.repository(repo, write=True)
        if branch in found.branches:
            raise Refused(409)
        found.branches[branch] = found.branches["main"]
        self.send(201, {})

    def preupload(self, repo, revision):
        found = self.repository(repo, write=True)
        old = found.files(revision) if found.sha(revision) else {}
        answer = []
        for asked in json.loads(self.body)["files"]:
            name, count = asked["path"], asked["size"]
            mode = "lfs" if is_large(name, b"") or count >= LFS_BYTES else "regular"
            known = {"oid": old[name].etag} if name in old else {}
            answer.append({"path": name, "uploadMode": mode, "shouldIgnore": False, **known})
        self.send(200, {"files": answer})

    def batch(self, repo):
        self.repository(repo, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid = asked["oid"]
            href = {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}
            new = {} if oid in self.hub.lfs else {"actions": href}
            objects.append({"oid": oid, "size": asked["size"], **new})
        answer = {"transfer": "basic", "objects": objects}
        self.send(200, answer, "application/vnd.git-lfs+json")

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400)
        self.hub.lfs[oid] = self.body
        self.send(200)

    def commit(self, repo, revision):
        found = self.repository(repo, write=True)
        if found.sha(revision) is None:
            raise Refused(404, "RevisionNotFound")
        files = dict(found.files(revision))
        for row in map(json.loads, self.body.splitlines()):
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif row["key"] == "lfsFile":
                files[value["path"]] = Blob(self.hub.lfs[value["oid"]], value["oid"])
            elif row["key"] == "deletedFile":
                del files[value["path"]]
            else:
                found.message = value["summary"]
        number = 1 + sum(name.startswith("refs/pr/") for name in found.branches)
        request = bool(self.query.get("create_pr"))
        sha = found.commit(files, f"refs/pr/{number}" if request else revision)
        where = {"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha}
        if request:
            where["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{number}"
        self.send(200, {"success": True, "hookOutput": "", **where})

    def at(self, repo, revision):
        """The sha and the files of a revision."""
        found = self.repository(repo)
        sha = found.sha(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound")
        return sha, found.commits[sha]

    def tree(self, repo, revision):
        _, files = self.at(repo, revision)
        rows = []
        for name, blob in files.items():
            row = {"type": "file", "path": name, "size": len(blob.data), "oid": git_oid(blob.data)}
            large = {"oid": blob.oid, "size": len(blob.data), "pointerSize": 130}
            rows.append({**row, "lfs": large} if blob.oid else row)
        self.send(200, rows)

    def info(self, repo, revision="main"):
        sha, files = self.at(repo, revision)
        siblings = [{"rfilename": name} for name in files]
        self.send(200, {"_id": "1", "id": repo, "sha": sha, "siblings": siblings})

    def resolve(self, repo, revision, file):
        sha, files = self.at(repo, revision)
        if self.hub.repositories[repo].gated and self.token != MINE:
            raise Refused(403 if self.token else 401, "GatedRepo", X_Repo_Commit=sha)
        if file not in files:
            raise Refused(404, "EntryNotFound", X_Repo_Commit=sha)
        blob = files[file]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.oid is None:
            return self.send(200, blob.data, "application/octet-stream", **headers)
        linked = {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": f'"{blob.oid}"'}
        place = {"Location": f"http://localhost:{self.hub.port}/cdn/{blob.oid}"}  # another host
        return self.send(302, b"", **headers, **linked, **place)

    def cdn(self, oid):
        data = self.hub.lfs[oid]
        headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match is None:
            return self.send(200, data, "application/octet-stream", **headers)
        first, last = int(match[1]), int(match[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.send(206, data[first : last + 1], "application/octet-stream", **headers)
