"""The wheel holds the package, whole and nothing else; also when built from the sdist."""

import configparser
import os
import shutil
import sysconfig
import tarfile
import zipfile

import pytest
from house import PACKAGE, ROOT, fresh_python

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")

# From Python 3.11.4 on tarfile asks how an archive is to be trusted.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def build(kind, source, out):
    """Calls the build backend as pip does, without an isolated environment or the network."""
    code = f"import uv_build; print(uv_build.build_{kind}({str(out)!r}))"
    search = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"  # its own program
    done = fresh_python(code, source, PATH=search)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.strip().splitlines()[-1]


def package_files(names):
    return {name for name in names if name.startswith("arimage/") and not name.endswith("/")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, the wheel of the source tree, the wheel of the sdist, the files of the package."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(PACKAGE, source / "src" / "arimage", ignore=shutil.ignore_patterns("*.pyc"))
    tree = source / "src"
    files = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()}
    sdist = build("sdist", source, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", **SAFELY)
    (unpacked,) = (folder / "unpacked").iterdir()
    for name in ("direct", "indirect"):
        (folder / name).mkdir()
    direct = build("wheel", source, folder / "direct")
    indirect = build("wheel", unpacked, folder / "indirect")
    return sdist, direct, indirect, files


def test_the_wheel_holds_the_package_and_nothing_else(built):
    _, wheel, _, files = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert package_files(names) == files
    assert "arimage/py.typed" in files
    rest = {name for name in names if not name.startswith("arimage/")}
    assert all(".dist-info/" in name for name in rest), rest


def test_the_wheel_of_the_sdist_is_the_same(built):
    _, direct, indirect, _ = built
    with zipfile.ZipFile(direct) as first, zipfile.ZipFile(indirect) as second:
        assert {i.filename: i.CRC for i in first.infolist()} == {
            i.filename: i.CRC for i in second.infolist()
        }


def test_the_wheel_brings_the_licence_and_the_command(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = configparser.ConfigParser()
        commands.read_string(archive.read(entry).decode())
    assert dict(commands["console_scripts"]) == {"arimage": "arimage.cli:main"}
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_unpacked_wheel_imports(built, tmp_path):
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(tmp_path)
    code = "import arimage; print(arimage.__file__, *arimage.TOKENIZERS, *arimage.METRICS)"
    done = fresh_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_a_lost_file_would_be_seen(built, tmp_path):
    """The negative twin: the build of a tree that lacks one module differs from the package."""
    source = tmp_path / "source"
    shutil.copytree(built[1].parent.parent / "source", source)
    (source / "src" / "arimage" / "zoo.py").unlink()
    with zipfile.ZipFile(build("wheel", source, tmp_path)) as archive:
        assert built[3] - package_files(archive.namelist()) == {"arimage/zoo.py"}
