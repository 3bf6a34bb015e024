"""Bad input: one clear message, exit code 2, no traceback, and nothing written."""

import re
import sqlite3
from contextlib import closing, contextmanager

import pytest

from lrtune.core.commands import RETIRED
from lrtune.store import database as database_module
from lrtune.store.database import StudyStore

SPACE = """
[parameters]
peak_lr = {{ low = {low}, high = {high} }}
{more}
"""


def space(low=0.01, high=1.0, more=""):
    return {"x.toml": SPACE.format(low=low, high=high, more=more)}


def baseline(text):
    return {"mine.toml": text}


def task(text):
    return {"my_task.py": text}


LOADER = """
import lrtune, torch
from torch.utils.data import DataLoader, TensorDataset

data = DataLoader(TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64)), batch_size=4)
task = lrtune.Task(model=lambda: torch.nn.Linear(4, 2), train=data, validation=data, num_classes=2)
"""
DIARY = {"diary.db": "Dear diary! " * 99}

# the command line, the files that are there, and what the message says (each a regular expression)
BAD = {
    # names
    "model": ("search --model resnet19", {}, ["`model` must be", "got 'resnet19'", "resnet18"]),
    "data set": (
        "search --data imagenet", {},
        ["`data` must be one of cluttered-digits, digits", "got 'imagenet'"],
    ),
    "optimizer": (
        "search --optimizer lion", {}, ["`optimizer` must be one of sgd, adagrad", "got 'lion'"],
    ),
    "sampler": ("search --sampler cmaes", {}, ["`sampler` must be one of tpe, gp", "got 'cmaes'"]),
    "pruner": ("search --pruner asha", {}, ["`pruner` must be one of fair, none", "got 'asha'"]),
    "pruner of old": (
        "search --pruner median", {}, ["`pruner` must be one of fair, none, but got 'median'"],
    ),
    "precision": (
        "search --precision fp8", {}, ["`precision` must be one of auto, fp32", "got 'fp8'"],
    ),
    "device": ("search --device abacus", {}, ["abacus"]),
    "space": (
        "search --space wide", {},
        ["`space` must be a TOML file or one of default, fine-tuning", "got 'wide'"],
    ),
    "option": ("search --learning-rate 1", {}, ["No such option", "--learning-rate"]),
    "command": ("seek", {}, ["No such command", "seek"]),
    "argument": ("resume", {}, ["Missing argument", "STUDY"]),
    # numbers
    "budget of 0": ("search --budget 0", {}, ["`0 < budget` must hold, but got '0'"]),
    "negative budget": (
        "search --budget -3", {}, ["`budget` must look like 50, 300ep", "got '-3'"],
    ),
    "budget of words": (
        "search --budget banana", {}, ["`budget` must look like 50, 300ep", "got 'banana'"],
    ),
    "half a trial": ("search --budget 2.5", {}, ["`budget` in trials must be whole", "got '2.5'"]),
    "budget below the looks at one recipe": (
        "search --space x.toml --model mlp --epochs 10 --looks 2,4 --budget 9ep", space(),
        ["`budget` must cover the 10 epochs that a search of a single recipe takes, but got 9ep"],
    ),
    "budget below a full run": (
        "search --space x.toml --model mlp --epochs 10 --pruner none --budget 0.9runs", space(),
        ["`budget` must cover the 10 epochs .* but got 0.9runs"],
    ),
    "budget below a quick proof": (
        "search --space x.toml --model mlp --epochs 9 --looks 2,4 --confirm quick --budget 27ep",
        space(), ["`budget` must cover the 28 epochs .* but got 27ep"],
    ),
    "epochs": ("search --epochs 0", {}, ["`1 <= epochs <= 1000000` must hold, but got 0"]),
    "seeds": ("search --seeds 0", {}, ["`1 <= --seeds <= 1000` must hold, but got 0"]),
    "number of confirmations": (
        "search --confirm 3", {}, ["`confirm` must be one of full, quick, 0, but got '3'"],
    ),
    "too many seeds": (
        "search --seeds 10000000000 --max-seeds 1001", {},
        ["`1 <= --seeds <= 1000` must hold, but got 10000000000",
         "`0 <= --max-seeds <= 1000` must hold, but got 1001"],
    ),
    "a seed that is too large": (
        "search --seed 9223372036854775807", {},
        ["`0 <= seed <= 9007199254740992` must hold, but got 9223372036854775807"],
    ),
    "a budget for ever": (
        "search --budget 10000000000000", {},
        ["`budget <= 1000000000` must hold, but got '10000000000000'"],
    ),
    "a budget of no time": (
        "search --budget 0.00001s", {}, ["`1s <= budget` must hold, but got '0.00001s'"],
    ),
    "lag": ("search --lag 0", {}, ["`1 <= lag <= 1000` must hold, but got 0"]),
    "lag of words": ("search --lag all", {}, ["`lag` must be a whole number, but got 'all'"]),
    "what matters": ("search --matters 0", {}, ["`0 < matters` must hold, but got 0.0"]),
    "what matters less than nothing": (
        "search --matters=-0.1", {}, ["`0 < matters` must hold, but got -0.1"],
    ),
    "what matters in words": (
        "search --matters a-lot", {}, ["`matters` must be a number, but got 'a-lot'"],
    ),
    "what matters without a race": (
        "search --matters 1 --confirm quick", {},
        ["`--matters` does not go with `--confirm quick`, which has no race"],
    ),
    "jobs": (
        "search --jobs=-1", {}, ["`jobs` must be auto or a whole number from 1, but got '-1'"],
    ),
    "lanes": (
        "search --lanes 0", {}, ["`lanes` must be auto or a whole number from 1, but got '0'"],
    ),
    "lanes without a GPU": (
        "search --lanes 2 --device cpu", {}, ["can hold, but got 2, and there is no GPU"],
    ),
    "flags of the cluster": (
        "search --trial-timeout 9", {}, ["`--trial-timeout` does not go with `--engine local`"],
    ),
    "flags of this machine": (
        "search --engine ray --jobs 2", {}, ["`--jobs` does not go with `--engine ray`"],
    ),
    "time without an epoch": (
        "search --engine ray --trial-timeout -1", {}, ["`0 <= --trial-timeout` must hold"],
    ),
    "hole": ("search --cutout -1", {}, ["`0 <= cutout` must hold, but got -1"]),
    "placement": (
        "search --data-on-device perhaps", {},
        ["`--data-on-device` must be one of auto, yes", "got 'perhaps'"],
    ),
    "target": (
        "search --target 150", {}, ["`1 < target <= 100` must hold, in percent, but got 150"],
    ),
    "target as a fraction": (
        "compare --target 0.97", {}, ["in percent, but got 0.97: did you mean 97?"],
    ),
    "no number": ("search --epochs many", {}, ["`epochs` must be a whole number, but got 'many'"]),
    "batch size": ("search --batch-size 0", {}, ["`1 <= --batch-size` must hold, but got 0"]),
    "accumulation": (
        "search --batch-size 10 --accumulate 3", {},
        ["`--batch-size` must be a multiple of `accum"],
    ),
    "clipping": ("search --clip-norm 0", {}, ["`0 < --clip-norm` must hold, but got 0.0"]),
    "smoothing": (
        "search --label-smoothing 1", {}, ["`0 <= --label-smoothing < 1` must hold, but got 1.0"],
    ),
    "train size": (
        "search --train-size 99999", {},
        [r"`1 <= --train-size <= 4000` must hold for cluttered-digits", "got 99999"],
    ),
    "validation size": (
        "search --val-size 0", {}, [r"`1 <= --val-size <= \d+` must hold for cluttered-", "got 0"],
    ),
    "image size": ("search --image-size 0", {}, ["`1 <= --image-size` must hold, but got 0"]),
    "image too small": (
        "search --model densenet121 --image-size 1", {}, ["'densenet121' cannot take 1x1 images"],
    ),
    "steps of a sweep": ("find --steps 1", {}, ["--steps", "got 1"]),
    "ends of a sweep": ("find --low 1 --high 0.1", {}, ["low", "high", "1.0", "0.1"]),
    "seeds of a sweep": ("find --seeds 0", {}, ["`1 <= --seeds <= 1000` must hold, but got 0"]),
    # looks
    "looks": (
        "search --looks 3,banana", {},
        ["`looks` must be two lengths in epochs, the shorter one first, such as 1,3, but got "
         "'3,banana'"],
    ),
    "one look": ("search --looks 3", {}, ["`looks` must be two lengths .* but got '3'"]),
    "three looks": ("search --looks 1,2,3", {}, ["`looks` must be two lengths .* but got '1,2,3'"]),
    "falling looks": ("search --looks 3,1", {}, ["`looks` must be two lengths .* but got '3,1'"]),
    "looks of nothing": ("search --looks 0,1", {}, ["`looks` must be two lengths .* got '0,1'"]),
    "looks of old": ("search --looks c1,c3", {}, ["`looks` must be two lengths .* got 'c1,c3'"]),
    "looks that are too long": (
        "search --epochs 4 --looks 2,4", {},
        ["a look must be shorter than the full run of 4 epochs, but got '2,4'"],
    ),
    "looks that there are not": (
        "search --pruner none --looks 1,2 --rank-by top1", {},
        [
            "`--looks` does not go with `--pruner none`, which has no looks",
            "`--rank-by` does not go with `--pruner none`",
        ],
    ),
    "rank by another direction": (
        "search --rank-by val_loss:down --budget banana", {},
        ["a metric must be NAME, NAME:max or NAME:min, but got 'val_loss:down'", "got 'banana'"],
    ),
    "rank by what is not measured": (
        "search --model mlp --rank-by f1", {},
        [r"`--rank-by` must be a metric .* \(train_loss, val_loss, top1\), but got 'f1'"],
    ),
    "rank by a metric without a direction": (
        "search --model mlp --rank-by fun", {}, ["got 'fun': write fun:max if higher is better"],
    ),
    "half-life": (
        "search --ema-half-life -1", {}, ["`0 <= --ema-half-life` must hold, but got -1"],
    ),
    # files of spaces
    "impossible range": (
        "search --space x.toml", space(1.0, 0.1), ["x.toml", "peak_lr", "`low <= high` must hold"],
    ),
    "unknown key": (
        "search --space x.toml", space(more="peek = 1"), ["x.toml", "peek", "unknown key"],
    ),
    "unknown decay": (
        "search --space x.toml", space(more='decay = "kosine"'), ["decay", "got 'kosine'"],
    ),
    "unknown optimizer": (
        "search --space x.toml", space(more='optimizer = "lion"'), ["optimizer", "got 'lion'"],
    ),
    "patience without plateau": (
        "search --space x.toml",
        space(more='decay = "cosine"\n[decay.plateau]\npatience_epochs = 2'),
        [r"x.toml: \[decay.plateau\]", "not among the choices"],
    ),
    "patience of another decay": (
        "search --space x.toml",
        space(more='decay = "cosine"\n[decay.cosine]\npatience_epochs = 2'),
        ["patience_epochs", "unknown key"],
    ),
    "patience of a recipe": (
        "search --space x.toml", space(more="patience_epochs = 2"), ["patience", "unknown key"],
    ),
    "warmup longer than training": (
        "search --epochs 4 --space x.toml", space(more="warmup_epochs = { low = 0, high = 6 }"),
        [
            r"x.toml: \[parameters\] warmup_epochs: `warmup_epochs < epochs` must hold, "
            "but got warmup_epochs=6",
        ],
    ),
    "no TOML": ("search --space x.toml", {"x.toml": "[parameters"}, ["x.toml: is not valid TOML"]),
    "no LR": ("search --space x.toml", {"x.toml": "[parameters]\n"}, ["peak_lr", "is missing"]),
    "numbers and depth": (
        "search --space x.toml --baseline mine.toml",
        space(-1.7e308, "inf", more="step = nan")
        | baseline("peak_lr = " + "9" * 5000 + "\n[decay]\nname = 'multistep'"),
        [
            "x.toml: parameters.peak_lr.low: a number must lie between .*, but got -1.7e",
            "x.toml: parameters.peak_lr.high: .*, but got inf",
            "x.toml: parameters.step: .*, but got nan",
            "mine.toml: peak_lr: a number must lie between .*, but got a longer one",
        ],
    ),
    "a deep space and a long recipe": (
        "compare a.toml b.toml",
        {
            "a.toml": f"x = {'[' * 9999}{']' * 9999}",
            "b.toml": f"[decay]\nname = 'multistep'\nmilestones_epochs = {[*range(1, 5000)]}",
        },
        [
            "a.toml: tables and lists must not be nested in more than 8 levels",
            "b.toml: `milestones_epochs` must have at most 1000 entries, but got .{200}",
        ],
    ),
    "a large space": (
        "search --space x.toml", {"x.toml": f"x = {[*range(99_999)]}"},
        ["x.toml: must have at most 32768 bytes, but has more"],
    ),
    # files of baselines
    "baseline's warmup": (
        "search --epochs 4 --baseline mine.toml", baseline("warmup_epochs = 5.0"),
        [
            r"mine.toml: `warmup_epochs < epochs` must hold, "
            r"but got warmup_epochs=5 with 4 epochs\.$",
        ],
    ),
    "baseline's decay": (
        "search --baseline mine.toml", baseline('decay = "kosine"'), ["mine.toml", "got 'kosine'"],
    ),
    "baseline's key": (
        "search --baseline mine.toml", baseline("lr = 0.1"), ["mine.toml", "unknown key 'lr'"],
    ),
    "baseline's LR": (
        "search --baseline mine.toml", baseline("peak_lr = -1.0"),
        ["mine.toml", "`0 < peak_lr` must"],
    ),
    "baseline's type": (
        "search --baseline mine.toml", baseline('peak_lr = "high"'),
        ["mine.toml: `peak_lr` must be"],
    ),
    "baseline of a number": ("search --baseline mine.toml", baseline("decay = 3"), ["mine.toml"]),
    "baseline missing": (
        "search --baseline mine.toml", {},
        ["must be a TOML file or one of sgd-step", "'mine.toml'"],
    ),
    "baseline of words": (
        "search --baseline mine.toml", baseline("decay"), ["mine.toml: is not valid TOML"],
    ),
    "baseline and space": (
        "search --baseline mine.toml --epochs 4 --space x.toml",
        baseline("lr = 0.1") | space(more="warmup_epochs = 9"),
        ["mine.toml: unknown key 'lr'", "`warmup_epochs < epochs` must hold"],
    ),
    "two baselines": (
        "search --baseline mine.toml --optimizer sgd", {},
        ["`--optimizer` and `--baseline`.*give one"],
    ),
    # comparisons
    "no such recipe": (
        "compare sgd-stop adamw", {},
        ["a recipe must be a TOML file or one of sgd-step", "'sgd-stop'"],
    ),
    "recipes together": (
        "compare a.toml b.toml",
        {"a.toml": "lr = 1\nepochs = 0", "b.toml": "peak_lr = -1\n[published]\nx = 1"},
        [
            "a.toml: .*unknown key 'lr'", "a.toml: `epochs` must be", "b.toml: `0 < peak_lr`",
            "b.toml: unknown key 'published'",
        ],
    ),
    "one recipe": ("compare adamw", {}, ["a comparison needs two recipes at least, but got adamw"]),
    "a recipe twice": (
        "compare adamw adamw", {}, ["must have different names, but got adamw, adamw"],
    ),
    "seeds of a comparison": (
        "compare --seeds 0", {}, ["`1 <= --seeds <= 1000` must hold, but got 0"],
    ),
    "most seeds": (
        "compare --seeds 3 --max-seeds 2", {},
        ["`--seeds <= --max-seeds` must hold", "--max-seeds=2"],
    ),
    "most seeds of a search": (
        "search --seeds 3 --max-seeds 2", {}, ["`--seeds <= --max-seeds` must hold"],
    ),
    "warmup of a comparison": (
        "compare --epochs 4 a.toml adamw", {"a.toml": "warmup_epochs = 4.0"},
        ["a.toml: `warmup_epochs < epochs` must"],
    ),
    "included study missing": ("compare adamw --include x", {}, ["there are no studies"]),
    "framework": ("export x --to jax", {}, ["`to` must be one of torch, lightning", "got 'jax'"]),
    "nothing to export": ("export x", {}, ["there are no studies"]),
    # tasks
    "task missing": ("search --task my_task.py", {}, ["there is no file my_task.py"]),
    "file without a task": (
        "search --task my_task.py", task("x = 1"), ["must define `task`", "has no `task`"],
    ),
    "task of another kind": (
        "search --task my_task.py", task("task = 1"), ["must define `task`", "is a int"],
    ),
    "task that raises": (
        "search --task my_task.py", task("\n1 / 0"), ["failed: ZeroDivisionError", "line 2"],
    ),
    "task with a mistake": (
        "search --task my_task.py", task("def f(:"), ["my_task.py", "failed: SyntaxError"],
    ),
    "task and names": (
        "search --task my_task.py --data digits --val-size 9", task(""),
        ["does not go with `--data`, `--val-size`"],
    ),
    "task for find": ("find --task my_task.py", task("x = 1"), ["must define `task`"]),
    "batch size of a loader": (
        "search --task my_task.py --batch-size 256 --augment", task(LOADER),
        [
            "`--batch-size` must be 4, what the task's loader gives a step",
            "`augment` is for `Images` only",
        ],
    ),
    "batch size for find": (
        "find --task my_task.py --batch-size 256", task(LOADER), ["`--batch-size` must be 4"],
    ),
    # data
    "no data": (
        "search --data cifar10 --data-dir d", {"d/x": ""},
        ["cifar10 was not found", "data_batch_1.bin", "/d"],
    ),
    "no folder": ("search --data folder:pictures", {}, ["pictures must be a folder of images"]),
    "folder of nothing": (
        "search --data folder:d", {"d/x": ""}, ["d must hold a folder for each of 2 classes"],
    ),
    "folder without training images": (
        "find --data folder:d", {"d/val/a/x.png": "", "d/test/a/x.png": ""},
        ["d must hold a folder for training .* beside test, val, but it holds none"],
    ),
    "image that cannot be read": (
        "search --data folder:d --strict", {"d/a/x.png": "text", "d/b/x.png": "text"},
        ["d: with `strict` no image may be unreadable", "d/a/x.png: cannot identify image file"],
    ),
    "strict without a folder": (
        "find --data digits --strict", {}, ["`--strict` has no effect with `--data digits`"],
    ),
    "data for find": ("find --data cifar10", {}, ["cifar10 was not found", "data_batch_1.bin"]),
    # studies
    "slash": ("search --study a/b", {}, ["`study` must consist of", "'a/b' with '/' in it"]),
    "hidden": ("search --study .a", {}, ["`study` must not begin with a dot, but got '.a'."]),
    "nameless": ("search --study=", {}, ["`study` must have at least 1 character, but got ''."]),
    "long": (f"search --study {'a' * 151}", {},
             ["`study` must have at most 150 characters, but got 151."]),
    "long in bytes": (f"search --study {'語' * 100}", {},
                      ["`study` must have at most 255 bytes in UTF-8", "got 300, for 100 char"]),
    "long and strange": (f"search --study .{'é' * 150}/", {},
                         ["'/' in it", "begin with a dot", "150 characters, but got 152.",
                          "255 bytes in UTF-8", "got 302"]),
    "resume without studies": ("resume tiny", {}, ["there are no studies", "lrtune.db"]),
    "report without studies": ("report tiny", {}, ["there are no studies", "lrtune.db"]),
    "dashboard without studies": ("dashboard tiny", {}, ["there are no studies", "lrtune.db"]),
    # places
    "home in the way": ("search", {".lrtune": "a file"}, [".lrtune is a file"]),
    "database missing": ("search --storage sqlite:///no/where.db", {}, ["its folder is missing"]),
    "no database": ("search --storage sqlite:///diary.db", DIARY, ["is not a database"]),
    "no URL": ("search --storage banana", {}, ["banana cannot be used as a database"]),
    "list of no database": ("list --storage sqlite:///diary.db", DIARY, ["is not a database"]),
    "malformed URL": (
        "list --storage postgresql://me:SECRET@host:po@rt/db", {},
        [r"^lrtune: postgresql://\*\*\*@rt/db cannot be used as a database: [^S]+$"],
    ),
    "URL without slashes": (
        "search --storage postgresql:/me:SECRET@host/db", {},
        [r"^lrtune: \*\*\* cannot be used as a database: [^S]+SQLAlchemy URL[^S]+$"],
    ),
    # several at once
    "options together": (
        "search --epochs many --sampler cmaes --budget banana --optimizer lion --train-size all "
        "--looks 3,1 --space wide --jobs -1 --max-retries 2", {},
        ["got 'many'", "got 'cmaes'", "got 'banana'", "got 'lion'", "got 'all'", "got '3,1'",
         "got 'wide'", "got '-1'", "`--max-retries` does not go with `--engine local`"],
    ),
    "values together": (
        "search --budget banana --space wide --seeds 0 --target 150 --model resnet19", {},
        ["got 'banana'", "got 'wide'", "`1 <= --seeds <= 1000`", "`1 < target <= 100`",
         "got 'resnet19'"],
    ),
    "space and settings together": (
        "search --epochs 4 --batch-size 0 --space x.toml", space(more="warmup_epochs = 9"),
        ["`warmup_epochs < epochs` must hold", "`1 <= --batch-size` must hold"],
    ),
    "lines of a space together": (
        "search --space x.toml", space(2, 1, more='peek = 1\ndecay = "kosine"'),
        ["`low <= high`", "peek", "got 'kosine'"],
    ),
}  # fmt: skip


def contents(folder):
    """Every file in a folder, with a database as what it holds.

    Bytecode is left out, and the files that SQLite keeps beside an open database.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".pyc")):
            found[path.relative_to(folder)] = (
                dump(path) if path.name == "lrtune.db" else path.read_bytes()
            )
    return found


def dump(path):
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def check_refused(outcome, words):
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.strip()
    for word in words:
        assert re.search(word, outcome.err), outcome.err


@pytest.fixture
def nowhere(here, monkeypatch):
    """No data set is on this machine, and no network."""
    monkeypatch.setenv("HOME", str(here / "home"))
    monkeypatch.setenv("TORCH_HOME", str(here / "home"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there


@pytest.mark.parametrize(("words", "files", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_words(call, here, nowhere, words, files, said):
    for name, text in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    before = contents(here)
    check_refused(call(*words.split()), said)
    assert contents(here) == before
    assert not {".lrtune", "reports"} & ({path.name for path in here.iterdir()} - set(files))


# --- options that are gone

# what was typed once, and what there is in its place
RETIRED_FLAGS = {
    "--rungs c1,3": "the search looks at each recipe .*, whose lengths `--looks` sets",
    "--rungs=c1,3": "the search looks at each recipe .*, whose lengths `--looks` sets",
    "--reduction 3": "the search looks at each recipe .*, whose lengths `--looks` sets",
    "--reduction-factor 3": "the search looks at each recipe .*, whose lengths `--looks` sets",
    "--signal averaged": "looks are judged by the raw weights now, by what `--rank-by` says",
    "--num-confirmed 3": "`--confirm` is full, quick or 0 now",
}


def test_every_option_that_is_gone_is_tested():
    flags = {flag.split()[0].partition("=")[0].strip("-") for flag in RETIRED_FLAGS}
    assert {flag.replace("-", "_") for flag in flags} == set(RETIRED)


@pytest.mark.parametrize("flag", RETIRED_FLAGS)
def test_an_option_that_is_gone_tells_what_there_is_in_its_place(call, here, flag):
    outcome = call("search", *flag.split(), "--data", "digits")
    name = re.match("[a-z-]+", flag)[0]
    check_refused(outcome, [f"^lrtune: `{name}` is gone: {RETIRED_FLAGS[flag]}"])
    assert outcome.err.count("\n") == 1
    assert not list(here.iterdir())


def test_options_that_are_gone_are_shown_together(call, here):
    outcome = call("search", "--rungs", "c1", "--reduction", "3", "--signal", "raw")
    check_refused(outcome, ["`--rungs` is gone", "`--reduction` is gone", "`--signal` is gone"])
    assert outcome.err.count("\n") == 3
    for words in (("resume", "x", "--rungs", "c1"), ("compare", "--rungs", "c1", "--seeds", "0")):
        check_refused(call(*words), ["^lrtune: `--rungs` is gone"])
    refused = call("search", "--metric", "val_loss", "--", "nosuchprogram", "--rungs", "c1")
    check_refused(refused, ["'nosuchprogram' could not be started"])
    assert "is gone" not in refused.err  # that one is the command's own


# --- with a study that is there

# what to do with the study `tiny`, and what the message says
BAD_FOR_A_STUDY = {
    "another study": ("resume small", ["no study 'small'", "there are: tiny"]),
    "report of another": ("report small", ["no study 'small'", "there are: tiny"]),
    "dashboard of another": ("dashboard small", ["no study 'small'", "there are: tiny"]),
    "deletion of another": ("delete small --yes", ["no study 'small'", "there are: tiny"]),
    "deletion without a terminal": ("delete tiny", ["without a terminal", "Pass --yes"]),
    "budget": ("resume tiny --budget banana", ["`budget` must look like", "got 'banana'"]),
    "jobs": (
        "resume tiny --jobs=-1",
        ["`jobs` must be auto or a whole number from 1, but got '-1'"],
    ),
    "lanes": (
        "resume tiny --lanes none",
        ["`lanes` must be auto or a whole number from 1, but got 'none'"],
    ),
    "reports in the way": (
        "report tiny --out in-the-way",
        ["the report cannot be written to in-the-way/tiny"],
    ),
    "find in the way": (
        "find --model mlp --steps 60 --out in-the-way",
        ["cannot be written", "in-the-way"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), BAD_FOR_A_STUDY.values(), ids=BAD_FOR_A_STUDY.keys())
def test_bad_input_for_a_study_is_refused_in_words(call, finished, here, words, said):
    (here / "in-the-way").write_text("a file")
    before = contents(here)
    check_refused(call(*words.split()), said)
    assert contents(here) == before


# what a second command for the same study changes, and what the message says
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--seed", "1"], ["'tiny' has seed=0, but got 1"]),
        (["--epochs", "3"], ["'tiny' has epochs=2, but got 3"]),
        (["--space", "quick"], ["'tiny' has space_name='default', but got 'quick'"]),
        (
            ["--sampler", "gp", "--pruner", "fair"],
            ["sampler='tpe', but got 'gp'", "pruner='none', but got 'fair'"],
        ),
        (
            ["--confirm", "quick", "--lag", "2"],
            ["confirm='full', but got 'quick'", "lag=8, but got 2"],
        ),
        (["--matters", "0.5"], ["'tiny' has matters=None, but got 0.5"]),
        (["--label-smoothing", "0.1"], ["'tiny' has --label-smoothing=0.0, but got 0.1"]),
        (["--model", "small-cnn"], ["'tiny' has task=.*'mlp'.*, but got .*'small-cnn'"]),
    ],
)
def test_a_study_with_other_settings_is_refused_with_every_difference(
    call, finished, here, tiny, changed, said
):
    before = contents(here)
    check_refused(call(*tiny, *changed), ["that takes a study of another name", *said])
    assert contents(here) == before


@contextmanager
def held(path):
    """Another program that writes to the database and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def test_a_database_that_is_locked(call, finished, here, tiny, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_S", 0.05)
    before = contents(here)
    with held(here / ".lrtune" / "lrtune.db"):
        check_refused(
            call("resume", "tiny", "--budget", "4"),
            ["lrtune.db: the database is locked by another program"],
        )
        check_refused(
            call(*tiny, "--study", "other"),
            ["lrtune.db: the database is locked by another program"],
        )
    assert contents(here) == before
    assert call("resume", "tiny", "--budget", "4").code == 0


def test_a_database_that_is_read_only(call, finished, here, tiny):
    url = f"sqlite:///file:{here / '.lrtune' / 'lrtune.db'}?mode=ro&uri=true"
    before = contents(here)
    said = ["the database cannot be written: it, or its folder, is read-only"]
    check_refused(call("resume", "tiny", "--budget", "4", "--storage", url), said)
    check_refused(call(*tiny, "--study", "other", "--storage", url), said)
    assert contents(here) == before
    assert call("report", "tiny", "--storage", url).code == 0  # whoever only reads may


def test_a_damaged_checkpoint_costs_its_epochs_and_nothing_that_was_measured(
    call, here, tiny, monkeypatch
):
    record = StudyStore.record

    def record_and_stop(self, run, measurement):
        record(self, run, measurement)
        if run.id == "trial-0001":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StudyStore, "record", record_and_stop)
        assert call(*tiny).code == 130
    last = "SELECT prefix FROM lrtune_measurements WHERE run = 'trial-0001'"
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        ((key,),) = connection.execute(last).fetchall()
    checkpoint = here / ".lrtune" / "checkpoints" / "tiny" / f"{key}.1.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        measured = connection.execute("SELECT * FROM lrtune_measurements").fetchall()
        assert call("resume", "tiny").code == 0
        assert set(measured) < set(
            connection.execute("SELECT * FROM lrtune_measurements").fetchall()
        )
