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
    "space", ["nothing-like-it", "nowhere/x.toml", ".", "", "../search_spaces"]
)
def test_what_is_neither_is_refused_with_the_names_that_there_are(space):
    with pytest.raises(
        InputError,
        match="must be a TOML file or one of default, fine-tuning, imagenet-resnet50, quick",
    ):
        read_space(space)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"mine\.toml: cannot be read"):
        read_space(path)
