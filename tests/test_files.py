"""Files and folders appear whole or not at all."""

import pytest
from tiny import sentence

from arimage.files import new_file, new_files, new_folder, read_json, write_json, write_text


class Interrupted(Exception):
    pass


def write_half(block, place):
    """Writes into the block's temporary place, then fails."""
    with block as temporary:
        place(temporary).write_text("half")
        raise Interrupted


def test_a_file_appears_whole(tmp_path):
    path = write_text(tmp_path / "deep" / "a.txt", "gr\u00fc\u00dfe")
    assert path.read_text(encoding="utf-8") == "gr\u00fc\u00dfe"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(Interrupted):
        write_half(new_file(path), lambda temporary: temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_block_makes_no_folder(tmp_path):
    with pytest.raises(Interrupted):
        write_half(new_files(tmp_path / "out"), lambda temporary: temporary / "half.txt")
    assert list(tmp_path.iterdir()) == []


def test_the_same_block_without_the_failure_writes(tmp_path):
    with new_files(tmp_path / "out") as temporary:
        (temporary / "half.txt").write_text("half")
    assert (tmp_path / "out" / "half.txt").read_text() == "half"


def test_a_folder_keeps_its_other_files(tmp_path):
    folder = tmp_path / "out"
    for name in ("kept.txt", "part/replaced.txt"):
        write_text(folder / name, "old")
    with new_files(folder) as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "replaced.txt").write_text("new")
        (temporary / "added.txt").write_text("new")
    found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.txt")}
    assert found == {"kept.txt": "old", "part/replaced.txt": "new", "added.txt": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_is_not_written_over_a_folder_nor_a_folder_over_a_file(tmp_path):
    write_text(tmp_path / "file", "x")
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path, "x")
    assert "a folder of that name exists" in sentence(caught)
    with pytest.raises(NotADirectoryError) as caught, new_files(tmp_path / "file"):
        pass
    assert "a file of that name exists" in sentence(caught)
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "file" / "below", "x")
    assert "choose another output path" in sentence(caught)


def test_json_comes_back(tmp_path):
    value = {"b": [1, 2.5, None], "a": "\u00e9"}
    assert read_json(write_json(tmp_path / "a.json", value)) == value


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe", b"[1, 2]"])
def test_a_broken_json_file_is_told_with_its_place(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError) as caught:
        read_json(path)
    assert str(path) in sentence(caught)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(Interrupted):
        write_half(new_folder(tmp_path / "a"), lambda temporary: temporary / "x")
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "a") as temporary:
        (temporary / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").read_text() == "1"


def test_the_first_of_two_processes_wins(tmp_path):
    with new_folder(tmp_path / "a") as temporary:
        (temporary / "x").write_text("late")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_text("early")
    assert (tmp_path / "a" / "x").read_text() == "early"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
