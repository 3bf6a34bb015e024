"""The layout: which models get channels last, and that trying it leaves nothing behind."""

import pytest
import torch
from torch import nn

from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.layout import fastest_layout
from lrtune.training.native.loop import NativeTraining
from lrtune.training.native.models import build_model
from lrtune.training.task import Task

INPUTS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Views(nn.Module):
    """As in many an example: `view` wants its input in one piece."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, inputs):
        return self.convolution(inputs).view(len(inputs), -1)


def convolution(*args, **kwargs):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, *args, **kwargs))


# a model, and whether channels last is for it
MODELS = [
    (lambda: build_model("small-cnn", num_classes=10, channels=3, image_size=16), True),
    (lambda: build_model("mlp", num_classes=10, channels=3, image_size=16), False),
    (lambda: build_model("resnet18", num_classes=10, channels=3, image_size=16), True),
    (lambda: convolution(4, 1, stride=2), False),  # of 8 channels
    (lambda: convolution(4, 1), True),
    (lambda: convolution(4, 3, stride=2), True),
    (lambda: convolution(8, 3, groups=8), False),
    (Views, False),
]


@pytest.mark.parametrize(("build", "last"), MODELS)
def test_channels_last_where_the_model_bears_it(build, last):
    expected = torch.channels_last if last else torch.contiguous_format
    assert fastest_layout(build(), INPUTS) is expected


def test_inputs_that_are_no_images_have_no_channels():
    assert fastest_layout(convolution(4, 3), INPUTS.flatten(1)) is torch.contiguous_format


def test_trying_it_leaves_nothing_behind(identical):
    model = build_model("small-cnn", num_classes=10, channels=3, image_size=16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fastest_layout(model, INPUTS)
    assert identical(dict(model.state_dict()), before)
    assert not any(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
        if p.ndim == 4
    )


def test_a_trainer_builds_its_models_so_and_draws_nothing_for_it(digits):
    task = Task(
        model=lambda: build_model("small-cnn", num_classes=10, channels=1, image_size=8),
        train=digits.train, validation=digits.validation, num_classes=10,
    )  # fmt: skip
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    settings = TrainSettings(batch_size=36, device="cpu", ema_half_life_epochs=0.5)
    training = NativeTraining(task, settings)
    assert training.task.layout is torch.channels_last
    assert torch.rand(1) == expected
    with training.pool.lane(Recipe(), 0) as lane:
        assert lane.learner.model[4].weight.is_contiguous(memory_format=torch.channels_last)
        assert lane.learner.averaged.model[4].weight.is_contiguous(
            memory_format=torch.channels_last
        )
