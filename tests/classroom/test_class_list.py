"""Names and passwords of a class: what is refused, and that nobody's password changes or shows."""

import os
import stat

import pytest

from mlcourse.classroom import class_list
from mlcourse.errors import CourseError


def written(folder, text, name="class.txt"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_list_is_one_name_per_line(tmp_path):
    path = written(tmp_path, "\ufeffanna\r\n\r\n  bo.k  # the second row\n# nobody\nc-3_x\n")
    assert class_list.read(path) == ["anna", "bo.k", "c-3_x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no name"),
        ("# anna\n", "has no name"),
        ("anna\nAnna\n", "line 2"),
        ("../anna\n", "line 1"),
        ("anna b\n", "line 1"),
        ("-anna\n", "line 1"),
        ("a" * 32, "31 at most"),
        ("ännä\n", "line 1"),
        ("anna\nbo\nanna\n", "lines 1 and 3"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_a_faulty_list_is_one_line_that_names_the_place(tmp_path, text, said):
    with pytest.raises(CourseError, match=said):
        class_list.read(written(tmp_path, text))


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"nobody\.txt cannot be read \(No such file"):
        class_list.read(tmp_path / "nobody.txt")


def test_passwords_are_made_once_kept_and_only_added_to(tmp_path):
    path = tmp_path / "hub" / "passwords.csv"
    first = class_list.passwords(["anna", "bo"], path)
    assert len(set(first.values())) == 2
    assert all(len(word) == class_list.LENGTH and set(word) <= set(class_list.LETTERS) for word in first.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = class_list.passwords(["cy", "anna"], path)
    assert second["anna"] == first["anna"]
    assert second.keys() == {"cy", "anna"}
    assert class_list.passwords(["bo"], path) == {"bo": first["bo"]}  # who left the list keeps the password


@pytest.mark.parametrize("text", ["", "name,word\n", "name,password\nanna,short\n", "name,password\nanna\n", b"\xff"])
def test_a_damaged_file_of_passwords_is_refused_and_not_overwritten(tmp_path, text):
    path = written(tmp_path, text, "passwords.csv")
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(CourseError, match="is damaged"):
        class_list.passwords(["anna"], path)
    assert path.read_bytes() == before


def test_what_a_spreadsheet_adds_does_no_harm(tmp_path):
    path = written(tmp_path, "\ufeffname,password\r\n\r\nanna,abcdefghjk\r\n", "passwords.csv")
    path.chmod(0o600)
    assert class_list.passwords(["anna"], path) == {"anna": "abcdefghjk"}


@pytest.mark.skipif(os.name != "posix", reason="rights of files are another thing there")
def test_passwords_that_others_can_read_are_refused(tmp_path):
    path = tmp_path / "passwords.csv"
    class_list.passwords(["anna"], path)
    path.chmod(0o644)
    with pytest.raises(CourseError, match="chmod 600"):
        class_list.passwords(["anna"], path)


def test_only_the_own_password_opens():
    known = {"anna": "aaaaaaaaaa", "bo": "bbbbbbbbbb"}
    assert class_list.right(known, "anna", "aaaaaaaaaa")
    for name, word in [
        ("anna", "bbbbbbbbbb"),
        ("anna", ""),
        ("eve", ""),
        ("eve", "aaaaaaaaaa"),
        ("", ""),
        ("anna", "ä"),
    ]:
        assert not class_list.right(known, name, word)
