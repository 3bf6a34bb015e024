"""The spaces on disk: by name, by file, and what is said where there is neither."""

from pathlib import Path

import pytest

from lrtune.core.errors import InputError
from lrtune.core.space import parse_space
from lrtune.store.spaces import read_space, space_names

TOML = 'description = "mine"\n[parameters]\npeak_lr = 0.1\n'


def test_the_spaces_that_come_with_lrtune():
    assert space_names() == ["default", "fine-tuning", "imagenet-resnet50", "quick"]


@pytest.mark.parametrize("name", space_names())
def test_each_is_valid_says_whom_it_is_for_and_is_found_by_name(name):
    found, text = read_space(name)
    assert found == name
    assert text.startswith("# For ")
    assert parse_space(text, found).description


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_read_by_its_path(tmp_path, kind):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    assert read_space(kind(path)) == (str(path), TOML)


def test_a_name_that_comes_with_lrtune_is_not_shadowed_by_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").write_text(TOML)
    assert read_space("default")[1] != TOML


@pytest.mark.parametrize(
    "space",
    ["nothing-like-it", "nowhere/x.toml", ".", "", "../search_spaces", "x" * 300, "a\0b"],
)
def test_what_is_neither_is_refused_with_the_names_that_there_are(space):
    with pytest.raises(
        InputError,
        match="must be a TOML file or one of default, fine-tuning, imagenet-resnet50, quick",
    ):
        read_space(space)


def test_a_mark_of_the_byte_order_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML, encoding="utf-8-sig")
    assert read_space(path) == (str(path), TOML)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (b"#" * 32769, "must have at most 32768 bytes, but has more"),
        ("ä".encode() * 100_000, "must have at most 32768 bytes, but has more"),
    ],
    ids=["no text", "large", "large, and cut within a letter"],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, content, words):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"mine\.toml: {words}"):
        read_space(path)


def test_a_file_may_be_as_large_as_the_limit(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(TOML.encode().ljust(32768, b"#"))
    assert read_space(path)[1].startswith(TOML)
