"""What docs/security.md says, tried: files that are crafted, links, secrets, and servers."""

import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from lrtune.core.errors import DataError, StoreError
from lrtune.training.native.checkpoints import state_from_bytes
from lrtune.training.native.data.datasets import load_dataset
from lrtune.training.native.data.datasets.archives import LARGEST_BYTES
from tests.training.command.scripts import python, quadratic


class Crafted:
    """A pickle that makes a folder when it is read."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def test_a_crafted_checkpoint_runs_no_code(tmp_path):
    content = io.BytesIO()
    torch.save({"model": Crafted(tmp_path / "made")}, content)
    assert torch.load(io.BytesIO(content.getvalue()), weights_only=False)
    (tmp_path / "made").rmdir()  # so it does run where it is trusted
    with pytest.raises(StoreError, match="a checkpoint cannot be read"):
        state_from_bytes(content.getvalue())
    assert not (tmp_path / "made").exists()


def test_a_crafted_checkpoint_costs_its_epochs_and_nothing_else(tmp_path, call, tiny, here):
    assert call(*tiny).code == 0
    folder = here / ".lrtune" / "checkpoints" / "tiny"
    crafted = io.BytesIO()
    torch.save({"model": Crafted(tmp_path / "made")}, crafted)
    checkpoints = list(folder.iterdir())
    assert checkpoints
    for path in checkpoints:
        path.write_bytes(crafted.getvalue())
    assert call("resume", "tiny", "--budget", "4").code == 0
    assert not (tmp_path / "made").exists()


def test_a_file_that_is_far_larger_than_it_looks_is_not_unpacked(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            with gzip.open(folder / f"{prefix}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                for _ in range(LARGEST_BYTES // (1 << 24) + 1):
                    file.write(bytes(1 << 24))
    before = psutil.Process().memory_info().rss
    with pytest.raises(DataError, match="must hold at most 268,435,456 bytes, but it holds more"):
        load_dataset("mnist", data_dir=tmp_path, download=False)
    assert psutil.Process().memory_info().rss - before < LARGEST_BYTES


def large_png(side):
    """A PNG of a few bytes that says that it has `side` x `side` pixels."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def pictures(tmp_path):
    """200 images of two classes, in folders that are named after them."""
    folder = tmp_path / "pictures"
    for name, colour in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(100):
            Image.new("RGB", (8, 8), (colour, colour, i)).save(folder / name / f"{i:03}.png")
    return folder


def test_an_image_that_is_far_larger_than_it_looks_is_left_out(pictures):
    (pictures / "dark" / "bomb.png").write_bytes(large_png(50_000))
    data = load_dataset(f"folder:{pictures}", image_size=8)
    assert len(data.train.images) + len(data.validation.images) == 200
    assert any("bomb.png" in told for told in data.facts.values())


def test_a_link_in_a_study_is_deleted_and_not_what_it_leads_to(tmp_path, call, tiny, here):
    assert call(*tiny).code == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    (here / ".lrtune" / "checkpoints" / "tiny" / "link").symlink_to(outside)
    (here / ".lrtune" / "runs").mkdir(exist_ok=True)
    (here / ".lrtune" / "runs" / "tiny").symlink_to(outside)
    assert call("delete", "tiny", "--yes").code == 0
    assert (outside / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside", ".."])
def test_a_name_never_leads_out_of_the_folders_of_lrtune(call, here, name):
    (here / "outside").mkdir()
    (here / "outside" / "kept.txt").write_text("kept")
    for command in ("delete", "report", "resume"):
        outcome = call(command, name, *(("--yes",) if command == "delete" else ()))
        assert outcome.code == 2
        assert "Traceback" not in outcome.err
    assert (here / "outside" / "kept.txt").read_text() == "kept"


@pytest.mark.slow
def test_a_secret_of_a_command_is_nowhere_in_its_study(tmp_path, command):
    quadratic(tmp_path / "code")
    words = command(
        "search", "--metric", "val_loss", "--budget", "2", "--seeds", "1", "--max-seeds", "1",
        "--study", "x", "--", *python("code/train.py"),
    )  # fmt: skip
    secret = "correct-horse-battery"
    done = subprocess.run(
        words, cwd=tmp_path, env=os.environ | {"API_TOKEN": secret}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in written)
    assert [path for path in written if secret.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_dashboard_listens_to_this_machine_alone(tmp_path, call, tiny, here, command):
    pytest.importorskip("optuna_dashboard")
    assert call(*tiny).code == 0
    process = subprocess.Popen(
        command("dashboard", "tiny", "--port", "0"), cwd=here, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        listening = []
        while not listening and time.monotonic() < deadline:
            time.sleep(0.1)
            listening = [
                each.laddr.ip
                for each in psutil.Process(process.pid).net_connections("inet")
                if each.status == psutil.CONN_LISTEN
            ]
        assert listening == ["127.0.0.1"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def test_no_module_is_run_from_the_folder_of_the_data(pictures):
    """A folder of pictures may hold anything; what is no image is not even opened as code."""
    (pictures / "sitecustomize.py").write_text("raise SystemExit('run')")
    (pictures / "dark" / "torch.py").write_text("raise SystemExit('run')")
    words = [
        sys.executable, "-c",
        "from lrtune.training.native.data.datasets import load_dataset; import sys; "
        "print(load_dataset(sys.argv[1], image_size=8).num_classes)",
        f"folder:{pictures}",
    ]  # fmt: skip
    root = Path(__file__).parents[1]
    done = subprocess.run(
        words, cwd=pictures.parent, env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2"], done.stderr
