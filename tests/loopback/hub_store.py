"""What the loopback hub keeps: repositories, files, and failures on demand."""

import hashlib
import json
from dataclasses import dataclass, field

LFS_BYTES = 10_000


@dataclass
class Blob:
    """Content of a file; ``oid`` is its sha256 where it is stored as a large one."""

    data: bytes
    oid: str | None = None

    @property
    def etag(self):
        return self.oid or git_oid(self.data)


@dataclass
class Repository:
    """Branches name commits; commits name files; pull requests are branches refs/pr/N."""

    private: bool = False
    gated: bool = False
    commits: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)

    def commit(self, files, branch="main", parent=None):
        """Files (name to Blob) as a new commit of a branch; returns its sha."""
        seed = json.dumps(
            [branch, len(self.commits), sorted((k, v.etag) for k, v in files.items())]
        )
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def sha(self, revision):
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision="main"):
        return self.commits[self.sha(revision)]


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose "METHOD path" has ``pattern``.

    status: the answer. cut: the body ends in the middle. change: the bytes that are sent.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    headers: dict = field(default_factory=dict)
    cut: bool = False
    change: object = None


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(name, data):
    return len(data) >= LFS_BYTES or name.endswith((".safetensors", ".pth", ".bin"))
