"""From decoded frames to what a model takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from vidzoo.data.mix import mixup_cutmix
from vidzoo.data.transform import Augment, eval_transform, normalise, resize_short, train_transform
from vidzoo.errors import ConfigError
from vidzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD, VideoCfg

CFG = VideoCfg(num_frames=4, short_side=40, crop_size=(32, 32))
RAW = CFG.replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def noise(frames: int = 4, height: int = 48, width: int = 64) -> Tensor:
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8)


def still(frames: int = 4, height: int = 48, width: int = 64) -> Tensor:
    return noise(1, height, width).expand(frames, -1, -1, -1).contiguous()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_inverted_clip_is_the_negative() -> None:
    clip = noise()
    plain = train_transform(RAW, Augment(crop="centre", hflip=0))(clip, seeded())
    negative = train_transform(RAW, Augment(crop="centre", hflip=0, invert=1.0))(clip, seeded())
    torch.testing.assert_close(plain + negative, torch.ones_like(plain))


def test_evaluation_equals_torchvisions_own_recipe() -> None:
    clip = noise(4, 61, 83)
    recipe = v2.Compose(
        [
            v2.Resize(40, antialias=True),
            v2.CenterCrop(32),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )
    expected = recipe(clip.permute(0, 3, 1, 2)).transpose(0, 1)  # (3, T, 32, 32)
    got = eval_transform(CFG)(clip)
    assert got.shape == (1, 3, 4, 32, 32)
    assert got.is_contiguous()
    torch.testing.assert_close(got[0], expected)


@pytest.mark.parametrize("crops", [1, 3, 5])
def test_the_number_of_crops_is_the_number_of_views(crops: int) -> None:
    assert eval_transform(CFG, num_crops=crops)(noise()).shape == (crops, 3, 4, 32, 32)


def test_crops_lie_where_they_should() -> None:
    # No resize: 40 rows, 60 columns whose numbers are the pixel values.
    clip = torch.zeros(1, 40, 60, 3, dtype=torch.uint8)
    clip[..., 0] = torch.arange(40).view(1, 40, 1)
    clip[..., 1] = torch.arange(60).view(1, 1, 60)

    def corners(crops: int, frames: Tensor) -> list[tuple[int, int]]:
        views = eval_transform(RAW, num_crops=crops)(frames) * 255
        return [(round(float(v[0, 0, 0, 0])), round(float(v[1, 0, 0, 0]))) for v in views]

    assert corners(1, clip) == [(4, 14)]
    assert corners(3, clip) == [(4, 0), (4, 14), (4, 28)]
    assert corners(5, clip) == [(4, 14), (0, 0), (0, 28), (8, 0), (8, 28)]
    tall = clip.transpose(1, 2)[..., [1, 0, 2]].contiguous()
    assert corners(3, tall) == [(0, 4), (14, 4), (28, 4)]


def test_a_crop_wider_than_the_resized_frame_is_covered_not_padded() -> None:
    cfg = RAW.replace(crop_size=(30, 80), short_side=32)
    view = eval_transform(cfg)(torch.full((2, 50, 60, 3), 200, dtype=torch.uint8))
    assert view.shape == (1, 3, 2, 30, 80)
    assert torch.allclose(view, torch.tensor(200 / 255))


def test_the_test_crop_has_its_own_size() -> None:
    assert eval_transform(CFG.replace(test_crop_size=(40, 40)))(noise()).shape[-2:] == (40, 40)


def test_normalise_works_on_batches_and_on_floats() -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    one = normalise(clips[0], CFG)
    assert torch.equal(normalise(clips, CFG)[0], one)
    before = clips.float()
    torch.testing.assert_close(normalise(before, CFG)[0], one)
    assert torch.equal(before, clips.float())


def test_gray_is_the_luma_of_the_colours() -> None:
    clip = noise()
    gray = eval_transform(RAW.replace(in_chans=1, mean=(0.0,), std=(1.0,)))(clip)
    colour = eval_transform(RAW)(clip)
    assert gray.shape == (1, 1, 4, 32, 32)
    luma = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    torch.testing.assert_close(gray[:, 0], luma, atol=1e-5, rtol=1e-5)


def test_gray_takes_the_mean_of_three_colours_by_luma() -> None:
    flat = (torch.tensor(IMAGENET_MEAN) * 255).view(3, 1, 1, 1).expand(3, 2, 4, 4)
    assert normalise(flat, CFG.replace(in_chans=1)).abs().max() < 1e-5


def test_subtracting_the_clip_mean_makes_a_still_clip_vanish() -> None:
    cfg = RAW.replace(subtract_clip_mean=True)
    assert eval_transform(cfg)(still()).abs().max() < 1e-5
    moving = eval_transform(cfg)(noise())
    assert moving.abs().max() > 0.1
    assert moving.mean(dim=2).abs().max() < 1e-5


def test_other_channels_than_pictures_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="in_chans=2"):
        eval_transform(CFG.replace(in_chans=2))(noise())
    with pytest.raises(ConfigError, match="means"):
        normalise(torch.zeros(3, 1, 2, 2), CFG.replace(mean=(0.5, 0.5), std=(1.0, 1.0)))


def test_only_uint8_frames_with_colour_last_are_taken() -> None:
    for wrong in (noise().float(), noise().permute(0, 3, 1, 2), noise()[0]):
        with pytest.raises(ConfigError, match=r"uint8 \(T, H, W, 3\)"):
            eval_transform(CFG)(wrong)


STRONG = {
    "resized": Augment(),
    "short_side": Augment(crop="short_side"),
    "affine": Augment(rotate=20, translate=0.2, zoom=(0.8, 1.2), shear=10),
    "invert": Augment(invert=1.0),
    "colour": Augment(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3, gray=0.5),
    "randaugment": Augment(auto_augment="randaugment", magnitude=15),
    "trivialaugment": Augment(auto_augment="trivialaugment"),
    "autoaugment": Augment(auto_augment="autoaugment"),
    "augmix": Augment(auto_augment="augmix"),
    "erase": Augment(erase=1.0),
}


@pytest.mark.parametrize("name", STRONG)
def test_every_augmentation_is_the_same_in_all_frames(name: str) -> None:
    transform = train_transform(CFG, STRONG[name])
    clip = still()
    for seed in range(6):
        out = transform(clip, seeded(seed))
        assert out.shape == (3, 4, 32, 32)
        assert out.is_contiguous()
        assert torch.equal(out, out[:, :1].expand_as(out))


@pytest.mark.parametrize("name", STRONG)
def test_every_augmentation_changes_the_clip(name: str) -> None:
    clip = noise()
    plain = train_transform(CFG, Augment.none())(clip, seeded())
    assert any(not torch.equal(train_transform(CFG, STRONG[name])(clip, seeded(s)), plain) for s in range(4))


def test_no_augmentation_is_the_test_time_view() -> None:
    clip = noise()
    assert torch.equal(train_transform(CFG, Augment.none())(clip, seeded()), eval_transform(CFG)(clip)[0])


def test_augmentation_follows_its_generator_and_leaves_the_global_one_alone() -> None:
    transform = train_transform(CFG, Augment(auto_augment="randaugment", erase=0.5))
    clip = noise()
    first = transform(clip, seeded(5))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(transform(clip, seeded(5)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(transform(clip, seeded(6)), first)


def test_a_flip_is_reported_and_done() -> None:
    clip = noise()
    mirrored, flipped = train_transform(CFG, Augment(crop="centre", hflip=1.0)).apply(clip, seeded())
    upright, not_flipped = train_transform(CFG, Augment.none()).apply(clip, seeded())
    assert (flipped, not_flipped) == (True, False)
    assert torch.equal(mirrored, upright.flip(-1))


def test_gray_clips_have_three_equal_channels() -> None:
    out = train_transform(RAW, Augment(gray=1.0))(noise(), seeded())
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


def test_erasing_blanks_a_part_and_not_all() -> None:
    out = train_transform(RAW, Augment(crop="centre", hflip=0, erase=1.0))(noise() // 2 + 100, seeded())
    blank = (out == 0).float().mean()
    assert 0.01 < blank < 0.5


def test_a_random_crop_stays_inside_the_frame() -> None:
    transform = train_transform(RAW, Augment(crop="short_side"))
    bright = torch.full((2, 48, 64, 3), 255, dtype=torch.uint8)
    assert all(bool((transform(bright, seeded(s)) == 1).all()) for s in range(10))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 2.0)}, "scale"),
        ({"hflip": 1.5}, "hflip"),
        ({"hue": 0.7}, "hue"),
        ({"rotate": -1.0}, "rotate"),
        ({"auto_augment": "randaugmnet"}, "did you mean 'randaugment'"),
        ({"crop": "middle"}, "crop"),
    ],
)
def test_impossible_augmentations_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Augment(**options)  # type: ignore[arg-type]


def test_resizing_for_the_cache_never_enlarges() -> None:
    clip = noise(2, 48, 64)
    assert resize_short(clip, 24).shape == (2, 24, 32, 3)
    assert resize_short(clip, 100) is clip


def batch() -> tuple[Tensor, Tensor]:
    """Every clip is filled with its own number."""
    labels = torch.arange(6)
    return labels.float().view(6, 1, 1, 1, 1).expand(6, 3, 4, 16, 20).contiguous(), labels


def test_cutmix_cuts_one_box_through_all_frames_and_labels_follow_its_area() -> None:
    clips, labels = batch()
    for seed in range(20):
        mixed, targets = mixup_cutmix(clips, labels, 6, cutmix_alpha=1.0, generator=seeded(seed))
        assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
        for i in range(6):
            share = (mixed[i, 0, 0] == i).float().mean()
            torch.testing.assert_close(targets[i, i], share)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_mixup_blends_clips_as_their_labels() -> None:
    clips, labels = batch()
    mixed, targets = mixup_cutmix(clips, labels, 6, mixup_alpha=1.0, generator=seeded(1))
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], targets @ torch.arange(6).float())
    assert ((targets > 0).sum(1) == 2).all()


def test_both_methods_are_used_when_both_are_on() -> None:
    clips, labels = batch()
    kinds = set()
    for seed in range(30):
        mixed, _ = mixup_cutmix(clips, labels, 6, mixup_alpha=1.0, cutmix_alpha=1.0, generator=seeded(seed))
        kinds.add(bool((mixed == mixed.round()).all()))
    assert kinds == {True, False}


def test_without_alphas_nothing_is_blended() -> None:
    clips, labels = batch()
    mixed, targets = mixup_cutmix(clips, labels, 6, smoothing=0.12)
    assert torch.equal(mixed, clips)
    torch.testing.assert_close(targets[0], torch.tensor([0.90, 0.02, 0.02, 0.02, 0.02, 0.02]))


def test_blending_is_repeatable_and_leaves_its_input_alone() -> None:
    clips, labels = batch()
    kept = clips.clone()
    first = mixup_cutmix(clips, labels, 6, 0.4, 1.0, seeded(3))
    again = mixup_cutmix(clips, labels, 6, 0.4, 1.0, seeded(3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(clips, kept)


def test_impossible_batches_are_refused() -> None:
    clips, labels = batch()
    with pytest.raises(ConfigError, match=r"\(B, C, T, H, W\)"):
        mixup_cutmix(clips[:, :, 0], labels, 6, 1.0)
    with pytest.raises(ConfigError, match="5 classes"):
        mixup_cutmix(clips, labels, 5, 1.0)
    with pytest.raises(ConfigError, match="alphas"):
        mixup_cutmix(clips, labels, 6, -1.0)
