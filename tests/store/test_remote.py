"""Checkpoints behind a URL, and checkpoints in a place that is away now and then."""

import importlib.util
import threading
from collections import Counter
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import fsspec
import pytest

from lrtune.core.errors import InputError, StoreError
from lrtune.store.checkpoints import CheckpointStore
from lrtune.store.remote import PatientCheckpoints, RemoteCheckpointStore

DIGEST_BYTES = 32
FOR_EVER = 1e9


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """A place that nobody else has; that in memory outlives a test, so it is emptied."""
    yield f"{request.param}://{tmp_path}/checkpoints/study"
    if request.param == "memory":
        fsspec.filesystem("memory").rm(str(tmp_path), recursive=True)


@pytest.fixture
def checkpoints(url):
    return RemoteCheckpointStore(url)


class Place:
    """What lies at a URL, seen without a store."""

    def __init__(self, url):
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def names(self):
        return sorted(path.rsplit("/", 1)[-1] for path in self.fs.find(self.root))

    def read(self, name):
        return self.fs.cat_file(f"{self.root}/{name}")

    def write(self, name, content):
        self.fs.pipe_file(f"{self.root}/{name}", content)


@pytest.fixture
def place(url, checkpoints):
    return Place(url)


# --- behind a URL


@pytest.mark.parametrize(
    "payload", [b"", b"x", bytes(range(256)) * 500], ids=["empty", "short", "long"]
)
def test_what_was_saved_is_loaded_by_another_store(checkpoints, payload):
    checkpoints.save("1f", payload, 3)
    assert RemoteCheckpointStore(checkpoints.url).load("1f") == payload


def test_a_password_in_a_url_is_not_shown():
    with pytest.raises(InputError, match=r"gopher://\*\*\*@host/x") as raised:
        RemoteCheckpointStore("gopher://me:secret@host/x")
    assert "secret" not in str(raised.value)


def test_a_key_without_a_checkpoint_has_none(checkpoints, place):
    assert checkpoints.load("1f") is None
    checkpoints.save("1f0", b"of a key that begins alike", 1)
    assert checkpoints.load("1f") is None
    checkpoints.drop("1f")  # and there is nothing to drop
    assert place.names() == ["1f0.1.ckpt"]


def test_the_last_one_saved_counts_and_drop_forgets_it(checkpoints):
    checkpoints.save("a", b"first", 3)
    checkpoints.save("b", b"of another key", 3)
    checkpoints.save("a", b"second", 3)
    assert checkpoints.load("a") == b"second"
    checkpoints.drop("a")
    assert checkpoints.load("a") is None
    assert checkpoints.load("b") == b"of another key"


def test_what_another_store_does_is_seen_at_once(checkpoints):
    other = RemoteCheckpointStore(checkpoints.url)
    assert checkpoints.load("1f") is None
    other.save("1f", b"theirs", 3)
    assert checkpoints.load("1f") == b"theirs"
    other.drop("1f")
    assert checkpoints.load("1f") is None


def test_studies_do_not_meet(checkpoints):
    other = RemoteCheckpointStore(f"{checkpoints.url}-2", limit_bytes=0)
    checkpoints.save("1f", b"ours", 3)
    other.save("2e", b"theirs", 9)
    other.keep_only(set())
    assert (checkpoints.load("1f"), other.load("2e")) == (b"ours", None)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "a byte of the payload": lambda content: flipped(content, DIGEST_BYTES + 5),
    "a byte of the checksum": lambda content: flipped(content, 0),
    "cut short": lambda content: content[:-1],
    "cut within the checksum": lambda content: content[: DIGEST_BYTES // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_lost(checkpoints, place, damage):
    checkpoints.save("1f", b"weights" * 100, 3)
    place.write("1f.3.ckpt", damage(place.read("1f.3.ckpt")))
    assert checkpoints.load("1f") is None
    assert place.names() == []


def test_all_but_a_few_are_forgotten(checkpoints, place):
    for key in ("a", "b", "c", "ab"):
        checkpoints.save(key, key.encode(), 3)
    checkpoints.keep_only({"a", "c", "never saved"})
    assert place.names() == ["a.3.ckpt", "c.3.ckpt"]
    assert checkpoints.load("c") == b"c"
    checkpoints.keep_only(set())
    assert place.names() == []
    checkpoints.keep_only({"a"})


def test_what_is_no_checkpoint_is_let_be(checkpoints, place):
    place.write("notes.txt", b"of its user" * 100)
    small = RemoteCheckpointStore(checkpoints.url, limit_bytes=1)
    small.save("1f", b"x", 3)
    small.drop("notes")
    small.keep_only(set())
    assert place.names() == ["notes.txt"]


# key, epochs and bytes of what is saved in this order; the limit in payload bytes; the keys that
# are left
EVICTIONS = [
    (["a1 100", "b2 100", "c3 100"], 1000, "abc"),
    (["a1 100", "b2 100", "c3 100"], 300, "abc"),
    (["a1 100", "b2 100", "c3 100"], 299, "bc"),
    (["a1 100", "b2 100", "c3 250"], 300, "c"),
    (
        ["a9 100", "b3 100", "c5 100"],
        299,
        "ac",
    ),  # the one that took the fewest epochs, whatever its age
    (["a9 100", "b3 100", "c5 100"], 199, "c"),  # but never the one just written
    (["a9 100", "b5 100", "c1 100"], 299, "ac"),
    (["a10 100", "b9 100", "c11 100"], 299, "ac"),  # epochs are numbers
    (["a2 100", "b3 500", "c4 100"], 600, "bc"),
    (["a2 100", "b3 500", "c4 100"], 599, "c"),  # no more goes than must
    (["a1 100", "b1 100", "c1 900"], 300, "c"),  # however large it is
    (["a1 100", "b1 100", "a1 100"], 150, "a"),
]


@pytest.mark.parametrize(("saved", "limit", "left"), EVICTIONS)
def test_those_that_took_the_fewest_epochs_go_first(url, saved, limit, left):
    checkpoints = RemoteCheckpointStore(url, limit_bytes=limit + len(left) * DIGEST_BYTES)
    for text in saved:
        name, size = text.split()
        checkpoints.save(name[0], bytes(int(size)), int(name[1:]))
    assert "".join(name[0] for name in Place(url).names()) == left


# --- places that cannot be had


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("banana://bucket/path", "Protocol not known: banana"),
        pytest.param(
            "s3://bucket/path",
            "Install s3fs to access S3",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed"
            ),
        ),
    ],
)
def test_a_url_that_fsspec_cannot_open_is_one_sentence(url, words):
    with pytest.raises(InputError) as caught:
        RemoteCheckpointStore(url)
    assert (
        str(caught.value)
        == f"`storage_path` must be a URL that fsspec knows, but got '{url}': {words}."
    )


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"checkpoints at file://.*/file/study cannot be made: "):
        RemoteCheckpointStore(f"file://{tmp_path}/file/study")


def test_a_folder_on_a_disk_that_is_not_there_is_one_message(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"checkpoints at file://.*/link/study cannot be made: "):
        RemoteCheckpointStore(f"file://{tmp_path}/link/study")


def test_a_place_that_went_away_is_said_when_something_is_saved(tmp_path):
    checkpoints = RemoteCheckpointStore(f"file://{tmp_path}/place/study")
    (tmp_path / "place").rename(tmp_path / "away")
    with pytest.raises(
        StoreError, match=f"checkpoints at file://{tmp_path}/place/study cannot be written: "
    ):
        checkpoints.save("1f", b"weights", 3)


# --- a place that is away now and then


class Counted:
    """Checkpoints, and how often each thing was tried."""

    def __init__(self, checkpoints):
        self.checkpoints, self.tries = checkpoints, Counter()

    def __getattr__(self, name):
        def attempt(*args):
            self.tries[name] += 1
            return getattr(self.checkpoints, name)(*args)

        return attempt


@pytest.fixture
def counted(tmp_path):
    return Counted(CheckpointStore(tmp_path / "place" / "study"))


@pytest.fixture
def remote_counted(tmp_path):
    return Counted(RemoteCheckpointStore(f"file://{tmp_path}/place/study"))


@pytest.fixture
def leave(tmp_path):
    """`leave(1.0)` takes the place away, and brings it back after so many seconds."""
    threads = []

    def take_away(seconds):
        (tmp_path / "place").rename(tmp_path / "away")
        threads.append(threading.Timer(seconds, (tmp_path / "away").rename, [tmp_path / "place"]))
        threads[-1].start()

    yield take_away
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("kind", ["counted", "remote_counted"])
def test_a_save_goes_on_when_the_place_comes_back(request, kind, leave, tmp_path):
    counted = request.getfixturevalue(kind)
    checkpoints = PatientCheckpoints(counted, patience_s=FOR_EVER)
    leave(1.0)
    checkpoints.save("1f", b"weights", 3)
    assert counted.tries["save"] > 1
    assert [path.name for path in (tmp_path / "place" / "study").iterdir()] == ["1f.3.ckpt"]
    assert checkpoints.load("1f") == b"weights"


def test_a_load_waits_for_the_place_and_does_not_take_it_for_empty(counted, leave):
    checkpoints = PatientCheckpoints(counted, patience_s=FOR_EVER)
    checkpoints.save("1f", b"weights", 3)
    leave(1.0)
    assert checkpoints.load("1f") == b"weights"
    assert counted.tries["load"] > 1


def test_forgetting_goes_on_when_the_place_comes_back(counted, leave):
    checkpoints = PatientCheckpoints(counted, patience_s=FOR_EVER)
    for key in ("a", "b"):
        checkpoints.save(key, key.encode(), 3)
    leave(1.0)
    checkpoints.keep_only({"a"})
    assert (checkpoints.load("a"), checkpoints.load("b")) == (b"a", None)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_load_waits_for_a_server_that_does_not_answer(tmp_path):
    pytest.importorskip("aiohttp")
    CheckpointStore(tmp_path / "study").save("1f", b"weights", 3)
    serve = partial(Quiet, directory=str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), serve, bind_and_activate=False) as server:
        server.server_bind()  # connections are refused as long as nobody listens
        counted = Counted(RemoteCheckpointStore(f"http://127.0.0.1:{server.server_port}/study"))
        opening = threading.Timer(1.0, server.server_activate)
        opening.start()
        answering = threading.Thread(target=lambda: (opening.join(), server.serve_forever()))
        answering.start()
        try:
            assert PatientCheckpoints(counted, patience_s=FOR_EVER).load("1f") == b"weights"
        finally:
            opening.join()
            server.shutdown()
            answering.join()
    assert counted.tries["load"] > 1


def test_patience_ends_with_what_went_wrong_in_the_first_place(counted, tmp_path):
    (tmp_path / "place").rename(tmp_path / "away")
    with pytest.raises(StoreError) as plain:
        counted.checkpoints.save("1f", b"weights", 3)
    with pytest.raises(StoreError) as patient:
        PatientCheckpoints(counted, patience_s=0.5).save("1f", b"weights", 3)
    assert str(patient.value) == str(plain.value)
    assert isinstance(patient.value.__cause__, FileNotFoundError)
    assert counted.tries["save"] > 1


def test_without_patience_it_is_tried_once(counted, tmp_path):
    (tmp_path / "place").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="cannot be written"):
        PatientCheckpoints(counted, patience_s=-1).save("1f", b"weights", 3)
    assert counted.tries == {"save": 1}


@pytest.mark.parametrize("kind", ["counted", "remote_counted"])
def test_a_damaged_checkpoint_is_not_waited_for(request, kind, tmp_path):
    counted = request.getfixturevalue(kind)
    checkpoints = PatientCheckpoints(counted, patience_s=FOR_EVER)
    checkpoints.save("1f", b"weights", 3)
    (tmp_path / "place" / "study" / "1f.3.ckpt").write_bytes(b"half of it")
    assert checkpoints.load("1f") is None
    assert counted.tries["load"] == 1


def test_what_is_there_is_had_at_once_and_once(counted):
    checkpoints = PatientCheckpoints(counted)
    checkpoints.save("a", b"weights", 3)
    checkpoints.save("b", b"weights", 3)
    assert checkpoints.load("a") == b"weights"
    assert checkpoints.load("never saved") is None
    checkpoints.drop("a")
    checkpoints.keep_only({"never saved"})
    assert counted.tries == {"save": 2, "load": 2, "drop": 1, "keep_only": 1}
    assert checkpoints.load("b") is None
