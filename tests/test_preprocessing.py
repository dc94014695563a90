"""From photo to network input: the pipeline everybody uses, the same as matrices, and what of a photo reaches it."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latcli.engine.images import to_unit
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.models.libraries import library_network, timm_preprocessing
from latcli.engine.models.preprocessing import Interpolation, Preprocessing, interpolation_called
from latcli.engine.vision import import_timm, import_torchvision
from latcli.errors import ImageError, UsageError

PIPELINES = [
    Preprocessing(256, 224, "bicubic"),
    Preprocessing(342, 299, "bilinear"),
    Preprocessing(32, 32, "bilinear"),
    Preprocessing(160, 224, "bicubic"),  # a crop larger than what is cropped is filled with black
    *(Preprocessing(96, 80, name) for name in get_args(Interpolation)),
]
OTHERS = [
    Preprocessing((90, 120), (80, 100), "bicubic", "crop"),
    Preprocessing(96, 80, "bilinear", "squash"),
    Preprocessing((64, 96), (64, 80), "bicubic", "squash"),
    Preprocessing(96, 96, "bicubic", "border", (124, 116, 104)),
]


def photo(height, width, contrast=90.0, seed=0):
    """Smooth shapes with noise on them: neither flat nor white noise. A contrast of 90 reaches black and white."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(k * rows + 7 * columns) for k in (5, 11, 23)], axis=2)
    levels_HWC = 128 + contrast * waves + random.normal(0, contrast / 6, (height, width, 3))
    return Image.fromarray(levels_HWC.clip(0, 255).astype(np.uint8))


def test_read_is_the_ordinary_pipeline_to_the_bit():
    transforms = import_torchvision().transforms
    for pipeline in PIPELINES:
        mode = transforms.InterpolationMode[pipeline.interpolation.upper()]
        steps = [transforms.Resize(pipeline.resize, mode), transforms.CenterCrop(pipeline.crop), transforms.ToTensor()]
        for size in [(375, 500), (500, 333), (224, 224), (257, 301), (1080, 810), (8, 8), (1, 1), (30, 900), (97, 64)]:
            image = photo(*size)
            assert torch.equal(pipeline.read(image), transforms.Compose(steps)(image))


def test_the_matrices_do_what_read_does():
    for pipeline in PIPELINES + OTHERS:
        for size in [(375, 500), (257, 301), (8, 8), (97, 64), (300, 40)]:
            linear = pipeline.linear(size)
            for contrast in (40.0, 90.0, 1e5):  # the last one is black and white only
                image = photo(*size, contrast)
                found_Chw = linear(to_unit(np.array(image)))
                assert found_Chw.shape == (3, *pipeline.size)
                difference_Chw = 255 * (found_Chw - pipeline.read(image)).abs()
                assert difference_Chw.max() < 1.2  # PIL rounds after each of its two passes
                assert difference_Chw.mean() < (
                    0.5 if pipeline.interpolation == "box" else 0.35
                )  # half a level a pass at most


def test_the_gradient_is_that_of_the_whole_matrices():
    for pipeline in PIPELINES + OTHERS:
        for size in [(375, 500), (8, 8), (300, 40)]:
            linear, x_CHW = pipeline.linear(size), 0.25 + 0.5 * torch.rand(3, *size)  # nothing is cut off
            toward_Chw = torch.rand(3, *pipeline.size)
            (found_CHW,) = torch.autograd.grad((linear(x_CHW.requires_grad_()) * toward_Chw).sum(), x_CHW)
            assert torch.allclose(found_CHW, linear.rows_hH.T @ toward_Chw @ linear.columns_wW, atol=1e-5)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    interpolation=st.sampled_from(get_args(Interpolation)),
    resize=st.integers(16, 40),
    mode=st.sampled_from(["crop", "squash", "border"]),
)
def test_what_is_not_visible_never_reaches_the_network(height, width, interpolation, resize, mode):
    pipeline = Preprocessing(resize, 16, interpolation, mode)
    before = np.array(photo(height, width))
    try:
        rows, columns = pipeline.visible((height, width))
    except ImageError:  # nothing is left of the short side
        return
    after = 255 - before
    after[rows, columns] = before[rows, columns]
    assert torch.equal(pipeline.read(Image.fromarray(after)), pipeline.read(Image.fromarray(before)))


def test_a_photo_that_is_all_edge_is_refused():
    with pytest.raises(ImageError, match="too narrow"):
        Preprocessing(256, 224, "bicubic").read(Image.new("RGB", (1000, 1)))
    with pytest.raises(UsageError, match="'random'"):
        interpolation_called("random", "timm:some")


def assert_timm_prepares_alike(names):
    """Against timm's own transform, built from the same configuration; no network is."""
    timm = import_timm()
    done = set()
    for name in names:
        data = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        if (key := repr(sorted(data.items(), key=str))) in done:
            continue
        done.add(key)
        ours, theirs = timm_preprocessing(data, name), timm.data.create_transform(**data, is_training=False)
        assert_prepared_alike(name, ours, theirs, data["mean"], data["std"])


def assert_prepared_alike(name, ours, theirs, mean, std):
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    for shape in [(375, 500), (500, 400), (300, 300)]:
        image = photo(*shape)
        expected_Chw = theirs(image) * std + mean
        assert (ours.read(image) - expected_Chw).abs().max() <= 1e-6, (name, shape)


def test_timms_configurations_are_prepared_as_timm_does():
    names = import_timm().list_models(pretrained=True)
    special = [
        "tf_efficientnet_lite0.in1k",
        "volo_d4_448.sail_in1k",  # crop_pct 1.15
        "coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k",  # squash
        "vit_base_patch32_clip_384.openai_ft_in12k_in1k",
        *[name for name in names if name.startswith("sapiens2")][:1],  # 1024x768
    ]
    assert_timm_prepares_alike([*special, *names[:: len(names) // 20]])


@pytest.mark.slow
def test_all_of_timms_configurations_are_prepared_as_timm_does():
    assert_timm_prepares_alike(import_timm().list_models(pretrained=True))


@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "efficientnet_b1", "swin_v2_t", "vit_l_16"])
def test_torchvisions_classifiers_are_prepared_as_torchvision_does(name):
    network = library_network(f"torchvision:{name}")
    assert network is not None
    transform = import_torchvision().models.get_model_weights(name).DEFAULT.transforms()
    assert_prepared_alike(name, network.preprocessing, transform, network.mean, network.std)


CUBIC = Preprocessing(256, 224, "bicubic")
SQUASHED = Preprocessing((6, 8), (6, 8), "bicubic", "squash")


def test_what_the_user_says_takes_the_place_of_the_librarys():
    for source, own, expected in [
        (ClassifierSource(), Preprocessing(256, 224), Preprocessing(256, 224)),
        (ClassifierSource(input_size=(112, 112)), Preprocessing(256, 224), Preprocessing((128, 128), (112, 112))),
        (ClassifierSource(resize="squash", input_size=(6, 8)), CUBIC, SQUASHED),
        (ClassifierSource(resize="crop"), Preprocessing(256, 224), Preprocessing((224, 224), (224, 224))),
        (ClassifierSource(resize=300), Preprocessing(256, 224), Preprocessing(300, (224, 224))),
    ]:
        assert source.preprocessing(own) == expected
