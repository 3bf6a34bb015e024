"""Models: what each of them takes, how the stem is fitted, and what is refused."""

import pytest
import torch
from torch import nn

from lrtune.core.errors import InputError
from lrtune.training.native.models import build_model, check_model, model_names

# name, channels, image size
TAKEN = [
    ("small-cnn", 1, 4),
    ("small-cnn", 1, 8),
    ("small-cnn", 1, 28),
    ("small-cnn", 3, 64),
    ("mlp", 1, 8),
    ("mlp", 3, 32),
    ("resnet18", 1, 4),
    ("resnet18", 1, 8),
    ("resnet18", 1, 28),
    ("resnet18", 3, 96),
    ("mobilenet_v3_small", 1, 28),
    ("shufflenet_v2_x0_5", 3, 32),
    ("squeezenet1_1", 3, 32),
    ("densenet121", 3, 32),
    ("regnet_y_400mf", 1, 28),
    pytest.param("convnext_tiny", 1, 28, marks=pytest.mark.slow),
    pytest.param("swin_t", 3, 32, marks=pytest.mark.slow),
    ("vgg11", 3, 32),
    ("vit_b_16", 3, 32),
    ("googlenet", 3, 32),
    pytest.param("inception_v3", 3, 32, marks=pytest.mark.slow),
    pytest.param("maxvit_t", 1, 224, marks=pytest.mark.slow),
]


@pytest.mark.filterwarnings("error:::torchvision", "error:::lrtune")
@pytest.mark.parametrize(("name", "channels", "image_size"), TAKEN)
def test_models_take_images(name, channels, image_size):
    model = build_model(name, num_classes=7, channels=channels, image_size=image_size).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, channels, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "channels", "image_size"), [("small-cnn", 1, 4), ("mlp", 3, 9), ("resnet18", 1, 28)]
)
def test_models_that_take_the_images_pass_the_check(name, channels, image_size):
    check_model(name, num_classes=7, channels=channels, image_size=image_size)


# name, channels, image size: why not
REFUSED = [
    ("vgg11", 1, 28, "they are too small for its layers. small-cnn"),
    ("small-cnn", 1, 3, "they are too small for its layers. small-cnn"),
    ("vit_b_16", 1, 28, "indivisible by patch size"),
    ("maxvit_t", 3, 32, "not divisible by partition size"),
]


@pytest.mark.parametrize(("name", "channels", "image_size", "reason"), REFUSED)
def test_models_that_cannot_take_the_images_say_why(name, channels, image_size, reason):
    with pytest.raises(InputError) as caught:
        check_model(name, num_classes=10, channels=channels, image_size=image_size)
    message = str(caught.value)
    assert message.startswith(
        f"`model` '{name}' cannot take {image_size}x{image_size} images with {channels} channel"
    )
    assert reason in message.lower()
    assert "resnet18" in message


@pytest.mark.parametrize(
    ("name", "close"),
    [("resnet19", "resnet18"), ("smal-cnn", "small-cnn"), ("fcn_resnet50", "resnet50")],
)
def test_unknown_models_are_refused_with_close_matches(name, close):
    for call in (build_model, check_model):
        with pytest.raises(InputError, match=close):
            call(name, num_classes=10, channels=3, image_size=32)


def test_names_are_ours_and_those_of_torchvisions_classifiers():
    names = model_names()
    assert names[:2] == ("small-cnn", "mlp")
    assert {"resnet18", "vit_b_16"} <= set(names)
    assert not {"fcn_resnet50", "fasterrcnn_resnet50_fpn", "r3d_18", "quantized_resnet18"} & set(
        names
    )


# name, channels, image size: kernel, stride and channels of the first convolution; whether the
# first max-pooling stays
STEMS = [
    ("resnet18", 1, 28, (3, 1, 1), False),
    ("resnet18", 3, 64, (3, 1, 3), False),
    ("resnet18", 3, 65, (7, 2, 3), True),
    ("resnet18", 1, 224, (7, 2, 1), True),
    ("mobilenet_v3_small", 3, 32, (3, 1, 3), False),
    ("vgg11", 1, 32, (3, 1, 1), True),
    ("vit_b_16", 1, 32, (16, 16, 1), False),
]


@pytest.mark.parametrize(("name", "channels", "image_size", "stem", "pools"), STEMS)
def test_the_stem_is_fitted_to_the_images(name, channels, image_size, stem, pools):
    model = build_model(name, num_classes=10, channels=channels, image_size=image_size)
    first = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    assert (first.kernel_size[0], first.stride[0], first.in_channels) == stem
    assert any(isinstance(part, nn.MaxPool2d) for part in model.modules()) == pools


def test_a_model_that_fits_is_torchvisions_own():
    import torchvision

    torch.manual_seed(3)
    ours = build_model("resnet18", num_classes=10, channels=3, image_size=224).state_dict()
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(weights=None, num_classes=10).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["small-cnn", "mlp", "resnet18"])
def test_weights_are_a_function_of_the_global_seed(name):
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(
            build_model(name, num_classes=10, channels=1, image_size=8).parameters()
        )

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_checking_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    check_model("small-cnn", num_classes=10, channels=1, image_size=8)
    with pytest.raises(InputError):
        check_model("vgg11", num_classes=10, channels=1, image_size=8)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["small-cnn", "mlp"])
def test_our_models_learn(name):
    torch.manual_seed(0)
    model = build_model(name, num_classes=2, channels=1, image_size=8)
    labels = torch.arange(32) % 2
    inputs = torch.randn(32, 1, 8, 8) + 2 * labels[:, None, None, None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
