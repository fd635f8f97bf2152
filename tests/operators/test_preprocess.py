"""Preprocessing is bit-equal to transformers' processor on the cut view."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from operators.fast_resize import render_views_fast
from operators.image import decode_image
from operators.preprocess import (
    CLIP_PROCESSOR,
    Processor,
    cut_view,
    normalize_views,
    parse_processor,
    render_views,
)
from operators.views import plan_views
from schemas.errors import ConfigError

SIZES = [(640, 428), (428, 640), (336, 336), (337, 335), (1000, 667), (2, 3), (33, 400), (700, 41), (90, 90)]


def reference_processor(size_px=336, **options):
    return CLIPImageProcessorPil(
        size={"shortest_edge": size_px}, crop_size={"height": size_px, "width": size_px}, **options
    )


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def reference_views(image, views, size_px=336):
    """The slow way: draw every view at full size and hand it to transformers."""
    processor = reference_processor(size_px)
    cuts = [cut_view(image, view.box, CLIP_PROCESSOR.fill_color) for view in views]
    if any(view.stretch for view in views):
        cuts = [cut.resize((size_px, size_px), Image.Resampling.BICUBIC) for cut in cuts]
    return np.stack([processor(cut, return_tensors="np")["pixel_values"][0] for cut in cuts])


@pytest.mark.parametrize("aspect", ["pad", "center", "squash", "published"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_views_equal_the_reference_bit_for_bit(size, aspect):
    image = noise(*size)
    views = plan_views(*size, "hd4", aspect)
    ours = normalize_views(render_views(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR)
    expected = reference_views(image, views)
    assert ours.dtype == expected.dtype == np.float32
    assert ours.shape == (5, 3, 336, 336)
    np.testing.assert_array_equal(ours, expected)


def checker(width, height, period=1):
    """Edges everywhere: what a resize is worst at."""
    levels = np.indices((height, width)).sum(axis=0) // period % 2 * 255
    return Image.fromarray(np.repeat(levels[..., None], 3, axis=-1).astype(np.uint8))


def black_and_white(width, height, seed=0):
    levels = np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels * np.uint8(255))


@pytest.mark.parametrize("aspect", ["pad", "center", "squash", "published"])
@pytest.mark.parametrize(
    "size", [*SIZES, (1200, 800), (480, 480), (500, 7)], ids=lambda s: "x".join(map(str, s))
)
def test_the_fast_way_is_at_most_one_level_off(size, aspect):
    views = plan_views(*size, "hd4", aspect)
    num_values = num_off = 0
    images = [noise(*size), black_and_white(*size), checker(*size), checker(*size, period=3)]
    is_any_square = any(view.box.width == view.box.height for view in views)
    for image in images if is_any_square else images[:1]:  # other boxes are left to the exact way
        exact = render_views(image, views, CLIP_PROCESSOR)
        fast = render_views_fast(image, views, CLIP_PROCESSOR)
        assert fast.shape == exact.shape
        assert fast.dtype == exact.dtype
        difference = np.abs(exact.astype(int) - fast)
        assert difference.max() <= 1
        num_values, num_off = num_values + difference.size, num_off + difference.sum()
    assert num_off <= 0.1 * num_values


def test_the_fast_way_knows_bicubic_alone():
    with pytest.raises(ConfigError, match="bicubic"):
        render_views_fast(noise(8, 8), plan_views(8, 8, "global", "pad"), Processor(resample=2))


def test_the_published_whole_view_is_the_processor_on_the_picture():
    image = noise(500, 333)
    views = plan_views(500, 333, "global", "published")
    expected = reference_processor()(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(
        normalize_views(render_views(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR), expected
    )


def test_bands_do_not_show():
    """Taller than one band: the seams must be invisible."""
    image = noise(300, 2600)
    views = plan_views(300, 2600, "hd4", "pad")
    ours = normalize_views(render_views(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR)
    np.testing.assert_array_equal(ours, reference_views(image, views))


def test_ribbons_cost_no_square(monkeypatch):
    """Drawn at full size this square would hold 144 million pixels."""
    image = Image.new("RGB", (12_000, 60), (10, 20, 30))
    drawn = []
    new = Image.new

    def counted(mode, size, color=0):
        drawn.append(size[0] * size[1])
        return new(mode, size, color)

    monkeypatch.setattr(Image, "new", counted)
    rendered = render_views(image, plan_views(12_000, 60, "global", "pad"), CLIP_PROCESSOR)
    assert tuple(rendered[0, 0, 0]) == CLIP_PROCESSOR.fill_color
    assert 0 < max(drawn) <= 336 * 12_000


@pytest.mark.real
def test_real_pictures_equal_the_reference_bit_for_bit(media_folder):
    names = [
        "waterview.jpg",
        "extreme_ironing.jpg",
        "made_rgba_gradient.png",
        "Landscape_6.jpg",
        "hopper.gif",
    ]
    for name in names:
        image = decode_image((media_folder / "images" / name).read_bytes())
        views = plan_views(*image.size, "hd4", "pad")
        ours = normalize_views(render_views(image, views, CLIP_PROCESSOR), CLIP_PROCESSOR)
        np.testing.assert_array_equal(ours, reference_views(image, views), err_msg=name)
        rendered = render_views(image, views, CLIP_PROCESSOR)
        difference = np.abs(rendered.astype(int) - render_views_fast(image, views, CLIP_PROCESSOR))
        assert difference.max() <= 1
        assert 0 < difference.mean() < 0.02


def test_the_processor_is_read_from_the_model_folder(tmp_path):
    reference_processor(224, image_mean=[0.5, 0.4, 0.3]).save_pretrained(tmp_path)
    processor = parse_processor((tmp_path / "preprocessor_config.json").read_text())
    assert (processor.size_px, processor.mean) == (224, (0.5, 0.4, 0.3))
    assert processor.std == CLIP_PROCESSOR.std
    image = noise(300, 200)
    views = plan_views(300, 200, "global", "published")
    expected = reference_processor(224, image_mean=[0.5, 0.4, 0.3])(image, return_tensors="np")[
        "pixel_values"
    ]
    np.testing.assert_array_equal(normalize_views(render_views(image, views, processor), processor), expected)


def test_the_default_is_the_published_encoder():
    reference = reference_processor()
    assert CLIP_PROCESSOR.mean == tuple(reference.image_mean)
    assert CLIP_PROCESSOR.std == tuple(reference.image_std)
    assert CLIP_PROCESSOR.fill_color == (122, 116, 104)


def test_a_processor_without_crop_stretches():
    text = json.dumps(
        {"size": {"height": 384, "width": 384}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    )
    processor = parse_processor(text)
    assert (processor.size_px, processor.center_crop) == (384, False)
    image = noise(200, 100)
    rendered = render_views(image, plan_views(200, 100, "global", "published"), processor)
    expected = np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(rendered[0], expected)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        '{"size": 336, "do_normalize": false}',
        '{"size": {"height": 336, "width": 224}}',
        '{"size": {"shortest_edge": 336}, "crop_size": 224}',
        '{"size": 336, "image_mean": [0.5]}',
        '{"size": 336, "resample": 99}',
        '{"size": -1}',
    ],
)
def test_processors_that_do_something_else_are_refused(text):
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        parse_processor(text)
