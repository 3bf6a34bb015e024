"""The files of a steered run, as its process writes them, and the metric in them."""

import json
import math
import os
import struct
import time

import pytest

from lrtune.core.errors import InputError
from lrtune.training.command import run_files, supervisor
from lrtune.training.command.epochs import Candidate, Epochs, Series, obvious, seen
from lrtune.training.command.lines import visible
from lrtune.training.command.places import CsvColumn, CsvRows, OutputPattern, parse_place
from lrtune.training.command.run_files import (
    Groups,
    Lines,
    LogLines,
    SteeredGroup,
    SteeredOptimizer,
    Step,
    Steps,
    read_board,
    read_failed,
    read_groups,
    read_output,
    read_reports,
)
from lrtune.training.command.supervisor import Log


class Run:
    """Writes what the process of a run would write."""

    def __init__(self, folder):
        self.folder = folder
        self.step = 0

    def train(self, steps):
        """Makes steps."""
        self.step += steps
        content = struct.pack("<8sQddQ", b"LRTUNE1\0", self.step, 0.1, 2.5, 77)
        (self.folder / "board.bin").write_bytes(content.ljust(64, b"\0"))
        return self

    def put(self, name, content):
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(content) + "\n")
        return self

    def print(self, *lines):
        """Prints lines from a steered process, whose output goes to the log too."""
        for line in lines:
            stamp = {"step": self.step, "time": time.time(), "stream": "stdout"}
            self.put("lines.jsonl", {**stamp, "line": line})
        return self.wrap(*lines)

    def wrap(self, *lines):
        """Prints lines from a process that is not steered."""
        with (self.folder / "log").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        return self

    def report(self, source="report", **values):
        stamp = {"step": self.step, "time": time.time(), "source": source}
        return self.put("values.jsonl", {**stamp, "values": values})

    def epochs(self, metric, place=None, **others):
        place = parse_place(place, metric or "") if place else None
        log = self.folder / "log"
        return Epochs(self.folder, metric, log=log, place=place, cwd=self.folder, **others)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def short(evaluations, name="val_loss"):
    return [(it.step, it.values[name]) for it in evaluations]


# --- files


def test_a_board(tmp_path, run):
    path = tmp_path / "board.bin"
    assert read_board(path) is None
    path.write_bytes(b"LRTUNE1\0")
    assert read_board(path) is None
    path.write_bytes(b"other".ljust(64, b"\0"))
    assert read_board(path) is None
    run.train(12)
    board = read_board(path)
    assert (board.steps, board.lr, board.loss, board.pid) == (12, 0.1, 2.5, 77)


def test_steps_come_as_they_are_written(tmp_path):
    path = tmp_path / "steps.bin"
    steps = Steps(path)
    assert steps.read() == []
    content = struct.pack("<6d", 0.1, 2.5, 0.2, math.inf, 0.3, 1.5)
    path.write_bytes(content[:20])
    assert steps.read() == [Step(lr=0.1, loss=2.5)]
    path.write_bytes(content[:31])
    assert steps.read() == []
    path.write_bytes(content)
    assert steps.read() == [Step(0.2, math.inf), Step(0.3, 1.5)]


def test_the_groups_of_a_command(tmp_path):
    group = {"name": None, "lr": 0.1, "max_lr": 0.2, "weight_decay": None, "later": 1}
    optimizer = {"class": "SGD", "module": "m", "num_steps": 3, "groups": [group]}
    content = {"version": 1, "torch": "2.0", "python": "3.8", "optimizers": [optimizer]}
    path = tmp_path / "groups.json"
    assert read_groups(path) is None
    path.write_text('{"half": ')
    assert read_groups(path) is None
    path.write_text(json.dumps(content))
    steered_group = SteeredGroup(name=None, lr=0.1, max_lr=0.2, weight_decay=None)
    steered = SteeredOptimizer(class_name="SGD", module="m", num_steps=3, groups=(steered_group,))
    assert read_groups(path) == Groups(torch="2.0", python="3.8", optimizers=(steered,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"step": 7, "group": "0", "key": "lr", "wanted": 0.1, "got": 0.2},
            "the LR of group 0 at step 7 was 0.2, and not 0.1 as it was set: the command changes "
            "it within the step",
        ),
        (
            {"step": 7, "group": "head", "key": "weight_decay", "wanted": 0.1, "got": 0.0},
            "the weight decay of group head at step 7 was 0, and not 0.1 as it was set: the "
            "command changes it within the step",
        ),
        ({"step": 3, "error": "KeyError('lr')"},
         "it could not be steered at step 3: KeyError('lr')"),
    ],
)  # fmt: skip
def test_why_a_run_cannot_be_steered(tmp_path, content, message):
    path = tmp_path / "failed.json"
    assert read_failed(path) == ""
    path.write_text('{"half": ')
    assert read_failed(path) == ""
    path.write_text(json.dumps(content))
    assert read_failed(path) == message


def test_whole_lines_come_once(tmp_path):
    path = tmp_path / "lines"
    lines = Lines(path)
    assert (lines.read(), lines.has_begun) == ([], False)
    path.write_bytes(b"one\ntw")
    assert (lines.read(), lines.has_begun) == (["one"], True)
    path.write_bytes(b"one\ntwo\n\xff\nlast")
    assert lines.read() == ["two", "\ufffd"]
    assert lines.read(over=True) == ["last"]
    assert lines.read(over=True) == []


def test_a_line_without_end_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "lines"
    lines = Lines(path)
    for number in range(40):
        with path.open("a") as file:
            file.write(f"\r{number}%" * 50_000)
        assert lines.read() == []
        assert len(lines._tail._rest) < 2**20
    with path.open("a") as file:
        file.write("\rval_loss 0.5\n")
    assert visible(lines.read()[0]) == "val_loss 0.5"


def test_lines_that_are_no_reports_are_left_out():
    good = {"step": 3, "time": 1.5, "source": "report", "values": {"f1": 0.5, "name": "x"}}
    bad = ["{", "[]", "[" * 100_000, "{}", json.dumps({**good, "source": "other"}),
           json.dumps({**good, "values": {}}), json.dumps({**good, "step": None})]  # fmt: skip
    (report,) = read_reports([*bad, json.dumps(good), json.dumps(good)[:-5]])
    assert (report.step, report.time, report.source, report.values) == (
        3,
        1.5,
        "report",
        {"f1": 0.5},
    )
    line = {"step": 3, "time": 1, "stream": "stderr", "line": "a 1"}
    (output,) = read_output([*bad, json.dumps(line)])
    assert (output.step, output.time, output.text) == (3, 1, "a 1")


# --- the log of a process that goes on


@pytest.mark.parametrize("lines_at_once", [100, 1_000, 13_000, 60_000])
def test_lines_of_a_log_that_becomes_shorter(tmp_path, monkeypatch, lines_at_once):
    """However seldom it is read, no line comes twice, none in part, and the last ones come."""
    part_bytes = 64 * 1024
    monkeypatch.setattr(supervisor, "PART_BYTES", part_bytes)
    monkeypatch.setattr(supervisor, "MAX_TAIL_BYTES", 3 * part_bytes)
    monkeypatch.setattr(run_files, "PART_BYTES", part_bytes)
    path = tmp_path / "log"
    path.write_bytes(b"before\n" * 1000)
    reader = LogLines(path, path.stat().st_size)
    log = Log(str(path))
    total = 60_000
    lines = []
    for first in range(0, total, lines_at_once):
        last = min(total, first + lines_at_once)
        for begin in range(first, last, 100):
            log.write(
                b"".join(b"%019d\n" % number for number in range(begin, min(last, begin + 100)))
            )
        lines += reader.read()
    log.close()
    lines += reader.read(over=True)
    numbers = [int(line) for line in lines if len(line) == 19]
    assert len(numbers) >= len(lines) - 2  # the last of the head is cut off
    assert numbers == sorted(set(numbers))
    assert numbers[:3000] == list(range(3000))
    assert numbers[-3000:] == list(range(total - 3000, total))
    if 20 * lines_at_once < part_bytes:
        assert len(numbers) == total


# --- where the metric is


def test_places():
    assert parse_place("out/a b.csv:eval_top1 ", "x") == CsvColumn(
        path="out/a b.csv", column="eval_top1"
    )
    place = parse_place(r"Score: (\S+)", "x")
    assert isinstance(place, OutputPattern)
    assert (place.find("Score: 91%"), place.find("Score: x"), place.find("")) == (91, None, None)
    assert parse_place(r"(\d) (?P<val_loss>\S+)", "Val Loss").find("1 2.5") == 2.5


@pytest.mark.parametrize(
    ("text", "rule"),
    [("(", "not a valid regular expression"), ("abc", "must have one group"),
     ("(a)(b)", "but '(a)(b)' has 2")],
)  # fmt: skip
def test_places_that_are_none(text, rule):
    with pytest.raises(InputError) as caught:
        parse_place(text, "f1")
    assert rule in str(caught.value)


# --- a CSV file

HEADER = "epoch,loss\n"


def rows_of(reader, **others):
    return [row["loss"] for row in reader.read(**others)]


def test_rows_that_are_appended(tmp_path):
    path = tmp_path / "a.csv"
    reader = CsvRows(path)
    assert rows_of(reader) == []
    path.write_text(HEADER + "0,0.5\n1,0.")
    assert rows_of(reader) == ["0.5"]
    path.write_text(HEADER + "0,0.5\n1,0.25\n\n2,1")
    assert rows_of(reader) == ["0.25"]
    assert rows_of(reader, over=True) == ["1"]
    assert rows_of(reader, over=True) == []
    assert reader.columns == ("epoch", "loss")


def test_rows_of_an_earlier_run_do_not_count(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "0,0.5\n1,0.25\n")
    reader = CsvRows(path)
    assert rows_of(reader) == []
    path.write_text(HEADER + "0,0.5\n1,0.25\n0,0.75\n")
    assert rows_of(reader) == ["0.75"]


@pytest.mark.parametrize("first", ["0,0.5", "0,0.75"])
def test_a_file_that_is_begun_anew(tmp_path, first):
    """It counts even if its first rows are those of the earlier run."""
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "0,0.5\n1,0.25\n")
    reader = CsvRows(path)
    path.write_text(HEADER)
    assert rows_of(reader) + rows_of(reader) == []
    path.write_text(HEADER + first + "\n")
    assert rows_of(reader) + rows_of(reader) == [first[2:]]
    path.write_text(HEADER + first + "\n1,0.25\n2,1\n")
    assert rows_of(reader) == ["0.25", "1"]


def test_a_file_that_is_written_again_each_time(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "0,0.5\n1,0.25\n")
    reader = CsvRows(path)
    path.write_text(HEADER + "0,0.5\n")  # being written
    assert rows_of(reader) == []
    path.write_text(HEADER + "0,0.5\n1,0.25\n2,1\n")
    assert rows_of(reader) == ["1"]
    path.write_text(HEADER + "0,0.5\n")
    assert rows_of(reader) + rows_of(reader) == []
    path.write_text(HEADER + "0,0.5\n1,0.25\n2,1\n3,2\n")
    assert rows_of(reader) == ["2"]


def test_other_ways_to_write_columns(tmp_path):
    for name, text in {
        "a.tsv": "epoch\t loss\n0\t0.5\n",
        "a.csv": "epoch;loss\n0;0.5\n",
        "b.csv": '\ufeff"epoch", "loss"\r\n0, 0.5\r\n',
        "c.csv": "epoch,loss\nepoch,loss\n0,0.5\n",
        "d.csv": "epoch,loss,more\n0,0.5\n",
    }.items():
        reader = CsvRows(tmp_path / name)
        (tmp_path / name).write_text(text)
        assert rows_of(reader) == ["0.5"], name


def test_a_path_that_is_no_file(tmp_path):
    (tmp_path / "file").touch()
    assert CsvRows(tmp_path / "file" / "a.csv").read() == []


# --- epochs


def test_a_printed_value_counts_once_a_step_was_made_after_it(run):
    epochs = run.epochs("val loss")
    run.train(0).print("val loss 9")
    assert epochs.read() == []
    run.train(10).print("train loss 3, lr 0.1").train(10).print("val loss 2.5")
    assert epochs.read() == []
    run.print("val acc 71")
    assert epochs.read() == []
    run.train(1)
    (first,) = epochs.read()
    assert (first.step, first.source) == (20, "output")
    assert first.values == {"val loss": 2.5, "train_loss": 3, "val_acc": 71}
    run.train(19).print("val loss 2")
    assert short(epochs.read(over=True), "val loss") == [(40, 2)]
    assert (epochs.series, epochs.problem) == (Series("output", 2), "")


def test_a_finished_run_is_read_at_once(run):
    for number in range(1, 4):
        run.train(10).print(f"val_loss {number}")
    assert short(run.epochs("Val-Loss").read(over=True), "Val-Loss") == [(10, 1), (20, 2), (30, 3)]


def test_a_value_that_is_handed_over_counts_at_once(run):
    epochs = run.epochs("val_loss")
    run.train(10).report(val_loss=0.5, f1=0.25)
    (first,) = epochs.read()
    assert (first.step, first.values) == (10, {"val_loss": 0.5, "f1": 0.25})
    run.report(val_loss=0.6)  # no step was made since
    assert epochs.read() == []
    run.train(10).report(val_loss=0.4)
    assert short(epochs.read()) == [(20, 0.4)]


@pytest.mark.parametrize("source", ["report", "lightning", "transformers"])
def test_the_best_source_is_kept(run, source):
    epochs = run.epochs("val_loss")
    for number in range(1, 4):
        run.train(10).print(f"val_loss: {number}").report(source, val_loss=number + 0.5)
        assert [it.source for it in epochs.read()] == [source]
    assert epochs.read(over=True) == []


def test_a_process_that_is_not_steered_may_print_the_metric(run):
    epochs = run.epochs("score")
    run.train(10).wrap("score: 0.5")
    assert epochs.read() == []
    run.train(10)
    (first,) = epochs.read()
    assert (first.step, first.values["score"], first.source) == (10, 0.5, "log")
    run.print("score 0.7").wrap("score: 0.6")
    assert short(epochs.read(over=True), "score") == [(20, 0.6)]


def test_the_stamped_line_is_taken_before_the_log(run):
    epochs = run.epochs("score")
    run.train(10).print("score: 0.5").train(5)
    assert [(it.step, it.source) for it in epochs.read()] == [(10, "output")]


def test_an_image_script(run):
    """In the style of pytorch/examples: lines of progress in training and evaluation."""
    epochs = run.epochs("acc@1")
    evaluations = []
    for epoch in range(3):
        for batch in range(0, 30, 10):
            run.train(10).print(f"Epoch: [{epoch}][{batch}/30]  Loss 6.9 (7.0)  Acc@1  1.0 ( 2.0)")
            evaluations += epochs.read()
        run.print("Test: [ 0/20]  Loss 6.9 (7.0)  Acc@1 3.0 (4.0)")
        run.print(f" * Acc@1 {70 + epoch} Acc@5 90")
        evaluations += epochs.read()
    evaluations += epochs.read(over=True)
    assert short(evaluations, "acc@1") == [(30, 70), (60, 71), (90, 72)]
    assert evaluations[0].values["acc@5"] == 90


def test_progress_gives_a_value_an_epoch_if_there_is_nothing_else(run):
    epochs = run.epochs("loss")
    evaluations = []
    for epoch in (1, 2):
        for batch in (10, 20):
            run.train(10).print(f"Epoch [{epoch}/2], Step [{batch}/20], Loss: {epoch}.{batch}")
            evaluations += epochs.read()
    assert short(evaluations, "loss") == [(20, 1.2)]
    assert short(epochs.read(over=True), "loss") == [(40, 2.2)]


def test_training_and_evaluation_with_one_name(run):
    epochs = run.epochs("loss")
    for number in (1, 2):
        run.train(10).print(f"train: loss {number}.5", f"val: loss {number}.25")
    assert short(epochs.read(over=True), "loss") == [(10, 1.25), (20, 2.25)]
    epochs = run.epochs("train loss")
    assert short(epochs.read(over=True), "train loss") == [(10, 1.5), (20, 2.5)]


def test_a_series_of_an_earlier_run(run):
    run.train(10).print("score 1").train(10).report(score=2)
    assert short(run.epochs("score").read(over=True), "score") == [(10, 1)]
    series = Series("report", 1)
    assert short(run.epochs("score", series=series).read(over=True), "score") == [(20, 2)]


def test_nan_is_a_value(run):
    epochs = run.epochs("val_loss")
    run.train(10).print("val_loss nan").train(1)
    ((step, value),) = short(epochs.read())
    assert step == 10
    assert math.isnan(value)


def test_a_flood_of_lines_does_not_hide_the_metric(run):
    epochs = run.epochs("val_loss")
    run.train(10).wrap(*(f"noise {n}" for n in range(5000)), "val_loss 0.5").train(1)
    assert short(epochs.read()) == []
    run.train(1)
    assert short(epochs.read()) == [(11, 0.5)]


def test_a_pattern(run):
    epochs = run.epochs("val_loss", place=r"Score=(\S+)")
    run.train(10).print("val_loss 9", "\x1b[1mScore=0.5\x1b[0m").train(1)
    assert short(epochs.read()) == [(10, 0.5)]


def test_a_column(run, tmp_path):
    path = tmp_path / "out" / "summary.csv"
    epochs = run.epochs("top1", place="out/summary.csv:eval_top1")
    run.train(10).print("top1 9")
    assert epochs.read() == []
    path.parent.mkdir()
    path.write_text("epoch,eval_top1,eval_loss\n0,71,0.5\n")
    (first,) = epochs.read()
    assert (first.step, first.source) == (10, "csv")
    assert first.values == {"top1": 71, "eval_loss": 0.5}
    run.train(20)
    path.write_text("epoch,eval_top1,eval_loss\n0,71,0.5\n1,,\n2,72,0.4\n3,73,0.3\n")
    assert short(epochs.read(), "top1") == [(23, 72), (30, 73)]


# --- what there is


def test_what_was_seen_is_told(run):
    epochs = run.epochs("f1")
    run.train(0).print("val loss 9")
    for number in range(3):
        run.train(10).print(f"lr 0.1 train loss {number}", f"val loss {number / 2}")
    run.report("lightning", top1=0.5)
    assert epochs.read(over=True) == []
    assert epochs.problem == (
        "No value of `f1` was seen. Seen were: val loss 1 (output, 4 times); "
        "train loss 2 (output, 3 times); top1 0.5 (lightning, once)."
    )


def test_what_the_log_repeats_is_told_once(run):
    epochs = run.epochs("f1")
    run.train(1).wrap("score 1")
    epochs.read(over=True)
    assert [str(it) for it in epochs.candidates] == ["score 1 (output, once)"]


def test_names_with_several_labels_are_told_with_them(run):
    epochs = run.epochs("f1")
    run.train(1).print("train: loss 1", "val: loss 2")
    epochs.read(over=True)
    assert [it.name for it in epochs.candidates] == ["val loss", "train loss"]


def test_other_reasons_for_no_value(run, tmp_path):
    assert run.epochs("f1").problem == (
        "No value of `f1` was seen. The command printed and reported no values."
    )
    epochs = run.epochs("f1", place="a.csv:f1")
    assert "wrote no CSV file" in epochs.problem
    (tmp_path / "a.csv").write_text("epoch,loss\n")
    epochs.read()
    assert epochs.problem.endswith("has no column f1. Its columns are: epoch, loss.")
    epochs = run.epochs("f1", place="(b)")
    assert "No value of `f1` was seen by `--read` '(b)'." in epochs.problem
    run.print("f1 0.5")
    epochs = run.epochs("f1")
    epochs.read(over=True)
    assert "only before the first optimizer step" in epochs.problem


def test_only_so_many_names_are_told(run):
    many = [candidate(f"a{number}") for number in range(23)]
    assert seen(many).endswith("a19 0.5 (output, twice); and 3 more.".replace("twice", "2 times"))


def candidate(name, *, is_evaluation=False, is_metric_like=False):
    return Candidate(
        name=name,
        value=0.5,
        place="output",
        count=2,
        is_evaluation=is_evaluation,
        is_metric_like=is_metric_like,
    )


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["val_loss 1", "train_loss 2"], "val_loss"),
        (["step 1: train loss 2.0712, val loss 2.0997"], "val loss"),
        (["val_loss 1", "best val_loss 1"], "val_loss"),
        (["val_loss 1", "val_acc 2"], None),
        (["loss 1"], None),
        (["eval_runtime 2", "eval_accuracy 1"], "eval_accuracy"),
        (["Test set: Average loss: 0.0291"], "Average loss"),
        (["test_thing 1"], None),
        ([" * Acc@1 71.080"], "Acc@1"),
        ([], None),
    ],
)
def test_the_one_obvious_metric(run, lines, name):
    epochs = run.epochs(None)
    run.train(1).print(*lines)
    assert epochs.read(over=True) == []
    assert epochs.problem.startswith("No metric was named, and none is obvious. ")
    found = obvious(epochs.candidates)
    assert (found.name if found else None) == name


def test_a_name_seen_in_two_places_is_one(run):
    epochs = run.epochs(None)
    run.train(1).print("{'eval_loss': '0.5'}").report("transformers", eval_loss=0.5)
    epochs.read(over=True)
    assert obvious(epochs.candidates).name == "eval_loss"


def test_nothing_is_there_yet(tmp_path):
    assert Epochs(tmp_path, "val_loss").read() == []
    assert Epochs(tmp_path / "missing", "val_loss").read(over=True) == []
    assert os.listdir(tmp_path) == []


def test_a_stamped_line_does_not_count_again_by_the_log(run):
    """A value before the first step, which the log shows only after some steps."""
    epochs = run.epochs("score")
    run.print("score: 9.5").train(3)
    assert epochs.read() == []
    run.train(20)
    assert epochs.read() == []
    run.print("score: 0.5").train(1)
    epochs.read()
    run.print("score: 0.5").train(1)
    assert epochs.read(over=True)[-1].step == 24
    assert epochs.series.source == "output"
