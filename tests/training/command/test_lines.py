"""The values in a line of output, as people's scripts print them."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lrtune.training.command.lines import as_number, normalised, parse, values_in, visible

nan, inf = math.nan, math.inf

LINES = [
    # --- pytorch/examples: mnist, imagenet, word_language_model, vae, dcgan
    ("Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.300039", {"Train Epoch": 1, "Loss": 2.300039}),
    (
        "Test set: Average loss: 0.0291, Accuracy: 9905/10000 (99%)",
        {"Average loss": 0.0291, "Accuracy": 99.05},
    ),
    (
        "Epoch: [0][ 10/5005]\tTime  0.512 ( 1.234)\tLoss 6.9e+00 (7.0e+00)\tAcc@1   0.00 (  0.15)",
        {"Time": 0.512, "Loss": 7.0, "Acc@1": 0.15},
    ),
    ("Test: [ 10/391]\tLoss 6.9e+00 (7.0e+00)\tAcc@1   1.00 (  2.15)", {"Loss": 7, "Acc@1": 2.15}),
    (" *   Acc@1 71.080 Acc@5 90.460", {"Acc@1": 71.08, "Acc@5": 90.46}),
    (
        "| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch 12.34 | loss  7.64 | ppl  2081.33",
        {"epoch": 1, "lr": 20, "ms/batch": 12.34, "loss": 7.64, "ppl": 2081.33},
    ),
    (
        "| end of epoch   1 | time: 45.67s | valid loss  6.12 | valid ppl   454.86",
        {"end of epoch": 1, "valid loss": 6.12, "valid ppl": 454.86},
    ),
    ("====> Epoch: 3 Average loss: 106.1234", {"Epoch": 3, "Average loss": 106.1234}),
    ("====> Test set loss: 105.9987", {"Test set loss": 105.9987}),
    (
        "[0/25][100/1583] Loss_D: 0.7012 Loss_G: 3.2001 D(x): 0.81",
        {"Loss_D": 0.7012, "Loss_G": 3.2001, "D(x)": 0.81},
    ),
    # --- torchvision's references
    (
        "Epoch: [0]  [  0/100]  eta: 0:01:40  lr: 0.1  img/s: 12.34  loss: 6.9000 (6.9100)  "
        "acc1: 0.0000 (0.1000)  time: 1.0  data: 0.5  max mem: 1234",
        {"lr": 0.1, "img/s": 12.34, "loss": 6.91, "acc1": 0.1, "time": 1, "data": 0.5,
         "max mem": 1234},
    ),
    ("Test:   [ 0/10]  eta: 0:00:01  loss: 6.9 (6.8)  acc1: 0.5 (0.7)", {"loss": 6.8, "acc1": 0.7}),
    ("Test:  Acc@1 71.080 Acc@5 90.460", {"Acc@1": 71.08, "Acc@5": 90.46}),
    ("Averaged stats: lr: 0.005000  loss: 0.5123 (0.7123)", {"lr": 0.005, "loss": 0.5123}),
    ("Epoch: [3]  loss: 1.23 (1.50)  acc1: 71.00 (68.2)", {"loss": 1.5, "acc1": 68.2}),
    ("Training time 0:12:34", {}),
    (" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.374",
     {"IoU": 0.5, "maxDets": 100}),
    # --- timm
    (
        "Train: 0 [   0/1251 (  0%)]  Loss: 6.94 (6.95)  Time: 1.234s,  830.12/s  (1.2s,  830/s)  "
        "LR: 1.000e-06  Data: 0.512 (0.513)",
        {"Train": 0, "Loss": 6.95, "LR": 1e-6, "Data": 0.513},
    ),
    (
        "Test: [   0/97]  Time: 1.234 (1.235)  Loss:   6.940 ( 6.950)  Acc@1:   0.100 (  0.200)",
        {"Time": 1.234, "Loss": 6.95, "Acc@1": 0.2},
    ),
    ("*** Best metric: 71.3 (epoch 3)", {"Best metric": 71.3, "epoch": 3}),
    # --- nanoGPT
    (
        "step 250: train loss 2.0712, val loss 2.0997",
        {"step": 250, "train loss": 2.0712, "val loss": 2.0997},
    ),
    ("iter 250: loss 2.0712, time 23.45ms, mfu 1.23%", {"iter": 250, "loss": 2.0712, "mfu": 1.23}),
    ("number of parameters: 10.65M", {}),
    ("tokens per iteration will be: 16,384", {}),
    # --- Keras
    (
        "391/391 [==============================] - 5s 12ms/step - loss: 0.5300 - val_loss: 0.6000",
        {"loss": 0.53, "val_loss": 0.6},
    ),
    (
        "\x1b[1m391/391\x1b[0m \x1b[32m━━━━━━\x1b[0m\x1b[37m\x1b[0m \x1b[1m5s\x1b[0m 12ms/step - "
        "accuracy: 0.9100 - val_accuracy: 0.8800",
        {"accuracy": 0.91, "val_accuracy": 0.88},
    ),
    ("Epoch 3/10", {"Epoch": 3}),
    (
        "Epoch 3: val_loss improved from 0.53000 to 0.45000, saving model to ck_12.pt",
        {"Epoch": 3, "val_loss improved from": 0.53, "to": 0.45},
    ),
    # --- the Trainer of transformers, and accelerate
    (
        "{'eval_loss': 0.5, 'eval_runtime': 1.2, 'epoch': 1.0}",
        {"eval_loss": 0.5, "eval_runtime": 1.2, "epoch": 1},
    ),
    ("{'loss': '0.5', 'learning_rate': '5e-05'}", {"loss": 0.5, "learning_rate": 5e-5}),
    ("epoch 0: {'accuracy': 0.6838, 'f1': 0.8122}", {"epoch": 0, "accuracy": 0.6838, "f1": 0.8122}),
    ("  eval_accuracy           =     0.8235", {"eval_accuracy": 0.8235}),
    ("{'val_loss': np.float64(0.53), 'acc': np.float32(0.91)}", {"val_loss": 0.53, "acc": 0.91}),
    # --- Lightning and tqdm
    (
        "Epoch 3: 100%|██████████| 391/391 [00:12<00:00, 31.20it/s, v_num=0, val_loss=0.4]",
        {"Epoch": 3, "v_num": 0, "val_loss": 0.4},
    ),
    (" 10%|█  | 39/391\r100%|███| 391/391 [00:12<00:00, 31.2it/s, loss=0.53]", {"loss": 0.53}),
    ("100%|██████████| 391/391 [01:12<00:00,  5.37it/s]", {}),
    # --- mmengine, fairseq, detectron2, YOLO
    (
        "2024/05/01 12:34:56 - mmengine - INFO - Epoch(train)  [1][  50/1250]  lr: 1.0e-02  "
        "eta: 0:10:00  time: 0.5  memory: 1234  loss: 2.3  loss_cls: 1.2",
        {"lr": 0.01, "time": 0.5, "memory": 1234, "loss": 2.3, "loss_cls": 1.2},
    ),
    (
        "2024/05/01 12:34:56 - mmengine - INFO - Epoch(val) [1][100/100]    accuracy/top1: 91.2",
        {"accuracy/top1": 91.2},
    ),
    (
        "2024-05-01 12:34:56 | INFO | valid | epoch 003 | valid on 'val' set | loss 4.55 | ppl 23",
        {"epoch": 3, "loss": 4.55, "ppl": 23},
    ),
    (
        "[05/01 12:34:56 d2.utils.events]:  eta: 1:02:03  iter: 19  total_loss: 1.234  lr: 0.0002",
        {"iter": 19, "total_loss": 1.234, "lr": 0.0002},
    ),
    ("metrics/mAP50-95(B): 0.374", {"metrics/mAP50-95(B)": 0.374}),
    # --- loggers
    ("2024-05-01 12:34:56.789 | INFO     | __main__:train:42 - val_loss: 0.53", {"val_loss": 0.53}),
    ("2024-05-01 12:34:56,789 - train.py:42 - INFO - val_acc=91.2%", {"val_acc": 91.2}),
    ("INFO:root:val_loss 0.5", {"val_loss": 0.5}),
    ("I0501 12:34:56.789012 1234 train.py:42] val_loss: 0.5", {"val_loss": 0.5}),
    ("[rank0]: val_loss 0.5", {"val_loss": 0.5}),
    ("[2024-05-01T12:34:56Z INFO] val_loss 0.5", {"val_loss": 0.5}),
    ("(RayTrainWorker pid=1234, ip=10.0.0.1) val_loss: 0.5", {"val_loss": 0.5}),
    ("\x1b[32m12:34:56\x1b[0m \x1b[1mval_loss\x1b[0m=\x1b[36m0.5\x1b[0m", {"val_loss": 0.5}),
    ("WARNING: 3 images were skipped", {}),
    # --- JSON
    ('{"val_loss": 0.3, "epoch": 2}', {"val_loss": 0.3, "epoch": 2}),
    (
        '{"val": {"loss": 0.3, "acc": NaN}, "tags": [1], "ok": true}',
        {"val/loss": 0.3, "val/acc": nan},
    ),
    ('INFO {"val_loss": 0.3, "epoch": 2}', {"val_loss": 0.3, "epoch": 2}),
    ('{"val_loss": 0.3, "cut": "off', {"val_loss": 0.3}),
    # --- home-made
    ("epoch 3 | valid ppl  95.12 | valid loss 4.55", {"epoch": 3, "valid ppl": 95.12,
     "valid loss": 4.55}),
    ("[12/90] eval_loss=1.2e-3", {"eval_loss": 0.0012}),
    ("Epoch [1/5], Step [100/600], Loss: 0.1234", {"Loss": 0.1234}),
    ("Epoch 1/9, Train Loss: 0.5, Val Loss: 1", {"Epoch": 1, "Train Loss": 0.5, "Val Loss": 1}),
    ("val_acc: 0.91%", {"val_acc": 0.91}),
    ("Accuracy: 91.2 %", {"Accuracy": 91.2}),
    ("Val Acc (%): 91.20", {"Val Acc": 91.2}),
    ("acc: 9/10", {"acc": 0.9}),
    ("Accuracy of the network on the 10000 test images: 54 %", {"test images": 54}),
    ("loss: tensor(0.5321, device='cuda:0', grad_fn=<NllLossBackward0>)", {"loss": 0.5321}),
    ("Validation loss decreased (0.532123 --> 0.451234).  Saving model ...", {}),
    ("val loss nan", {"val loss": nan}),
    ("val_loss: inf", {"val_loss": inf}),
    ("val_loss=-inf acc=.5", {"val_loss": -inf, "acc": 0.5}),
    ("elbo -123.5, kl: -0.5", {"elbo": -123.5, "kl": -0.5}),
    ("loss 0.25.", {"loss": 0.25}),
    ("loss\t0.25\tacc\t0.5", {"loss": 0.25, "acc": 0.5}),
    ("R^2: 0.5 f1-score=0.25", {"R^2": 0.5, "f1-score": 0.25}),
    ("Verlust: 0.5, précision 0.25, 损失: 1", {"Verlust": 0.5, "précision": 0.25, "损失": 1}),
    ("total: 1,234.5, all 1,234,567", {"total": 1234.5, "all": 1234567}),
    ("loss 0,534 tokens 1,234", {}),
    ("took 12.5s, 3.2GB, 31it/s", {}),
    ("saved to out/run_12/model-3.pt", {}),
    ("torch 2.14.1, cuda:0, 10.0.0.1:29500", {"cuda": 0}),
    ("losses: [0.5, 0.25]", {}),
    ("info: nothing", {}),
    ("", {}),
    ("0.5", {}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "values"), LINES, ids=[line[:40] for line, _ in LINES])
def test_the_values_of_a_line(line, values):
    assert repr(values_in(line)) == repr({name: float(value) for name, value in values.items()})


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain", "plain"),
        ("a\r\n", "a"),
        ("10%\r20%", "20%"),
        ("\x1b[1;32mgreen\x1b[0m", "green"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b[2K\x1b[1Aup", "up"),
    ],
)
def test_what_is_visible_of_a_line(line, text):
    assert visible(line) == text


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("val_loss", "val loss", "val/loss", "Val Loss:", "val-loss", " VAL  LOSS "), "val_loss"),
        (("valid_loss",), "valid_loss"),
        (("Acc@1",), "acc@1"),
        (("acc1",), "acc1"),
        (("metrics/mAP50-95(B)",), "metrics_map50_95_b"),
    ],
)
def test_spellings_of_a_name(names, key):
    assert {normalised(name) for name in names} == {key}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("train: loss=0.5 acc=0.9 | val: loss=0.6 acc=0.8", "val_loss", 0.6),
        ("train: loss=0.5 acc=0.9 | val: loss=0.6 acc=0.8", "train_acc", 0.9),
        ("train: loss=0.5 | val: loss=0.6", "loss", 0.6),
        ("a: loss=0.5 | b: loss=0.6", "loss", None),
        ("val: loss=0.5 | test: loss=0.6", "loss", None),
        ("[val] loss 0.5", "val_loss", 0.5),
        ("Validation (epoch 3): loss 0.5", "validation_loss", 0.5),
        ("Test set: Average loss: 0.0291", "test_set_average_loss", 0.0291),
        ("Test set: Average loss: 0.0291", "loss", None),
        ("loss 0.5 then loss 0.25", "loss", 0.5),
        ("[rank0]: Test: loss 0.5", "test_loss", 0.5),
    ],
)
def test_a_label_tells_values_of_one_name_apart(line, key, value):
    found = parse(line).find(key)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(
    ("line", "epoch", "counts_batches"),
    [
        ("Epoch: [3][ 10/5005] Loss 6.9", 3, True),
        ("Epoch [1/5], Step [100/600], Loss: 0.1234", 1, True),
        ("Train: 3 [   0/1251 (  0%)]  Loss: 6.94 (6.95)", 3, True),
        ("Train Epoch: 4 [640/60000 (1%)]\tLoss: 2.3", 4, True),
        ("Epoch 3/10, batch 5/100, loss 0.5", 3, True),
        ("Epoch 3: 100%|███| 391/391 [00:12<00:00, 3it/s, loss=0.5]", 3, False),
        ("Test: [ 10/391] Loss 6.9", None, False),
        ("[12/90] loss 0.5", None, False),
        ("Epoch [3/90] loss 0.5", 3, False),
        ("epoch 3 | loss 0.5", 3, False),
        ('{"epoch": 3, "loss": 0.5}', 3, False),
        ("epoch nan loss 1", None, False),
    ],
)
def test_what_a_line_counts(line, epoch, counts_batches):
    parsed = parse(line)
    assert (parsed.epoch, parsed.counts_batches) == (epoch, counts_batches)


@pytest.mark.parametrize(
    ("line", "is_evaluation"),
    [
        ("val_loss 0.5", True),
        ("Valid Loss 0.5", True),
        ("Test: [10/20] loss 0.5", True),
        (" * Acc@1 71", True),
        ("loss 0.5", False),
        ("train loss 0.5", False),
        ("latest loss 0.5", False),
    ],
)
def test_which_values_say_that_they_are_of_an_evaluation(line, is_evaluation):
    assert [value.is_evaluation for value in parse(line).values] == [is_evaluation]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0.5", 0.5), ("5.", 5), (".5", 0.5), ("-1e-3", -0.001), ("+2", 2), ("91.2%", 91.2),
        ("91.2 %", 91.2), ("1,234.5", 1234.5), ("1,234,567", 1234567), ("1,234", None),
        ("0,534", None), ("1,23", None), ("", None), ("x", None), ("1e", None), ("-", None),
        (True, None), (None, None), ([1], None), (3, 3), (10**400, inf), ("1_0", None),
    ],
)  # fmt: skip
def test_what_is_a_number(value, number):
    assert as_number(value) == number


PIECES = (
    "1", "a", " ", "{", "}", "[", "(", ")", ":", "=", ",", ".", "-", "/", "%", "\x1b[", "\r", "'",
    "\t", "1,234", "a.b:", "tensor(", "12:34", "Epoch [1/2]", "nan", '"a":', "é",
)  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
@example(pieces=["{", '"a":', "{"])
def test_a_long_line_takes_no_longer_than_its_length(pieces):
    """Rules that go back and forth in such a line would take minutes and end in a timeout."""
    block = "".join(pieces)
    line = block * (100_000 // len(block))
    parse(line)
    parse("{" + line + "}")


@given(line=st.text(max_size=200))
def test_any_text_is_a_line(line):
    for value in parse(line).values:
        assert value.name
        assert isinstance(value.value, float)


@given(
    name=st.sampled_from(["val_loss", "Val Loss", "top-1", "Acc@1", "val/f1"]),
    value=st.floats(allow_nan=False),
    separator=st.sampled_from([": ", "=", " ", ":", " = ", ": ", "  "]),
)
def test_what_is_printed_is_read(name, value, separator):
    assert values_in(f"epoch 3 | {name}{separator}{value} | x") == {"epoch": 3.0, name: value}
