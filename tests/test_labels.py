"""Class names: those of the sources that they were read from, in the same order."""

from __future__ import annotations

import hashlib

import pytest
import torchvision

from vidzoo.errors import ConfigError
from vidzoo.labels import SSV2_FLIP_PAIRS, class_names

# sha256 of the lines of tools/data/sthv2/label_map.txt in open-mmlab/mmaction2 at 4d6c9347; the list `classes` of
# SomethingSomethingV2Attr in dmlc/gluon-cv at 56777561, joined by line feeds, has the same.
SSV2 = "a31a2ad624a558d609762c50f4d5d4778246d3ace6717cf24b993b0bf2d9a68b"


def test_kinetics_has_the_order_of_every_video_weight_of_torchvision() -> None:
    compared = 0
    for name in torchvision.models.list_models(module=torchvision.models.video):
        for weights in torchvision.models.get_model_weights(name):
            assert class_names("k400") == tuple(weights.meta["categories"]), weights
            compared += 1
    assert compared >= 8


def test_imagenet_has_the_order_of_torchvision() -> None:
    for weights in torchvision.models.get_model_weights("resnet50"):
        assert class_names("imagenet") == tuple(weights.meta["categories"])


def test_something_something_is_what_two_projects_have() -> None:
    names = class_names("ssv2")
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == SSV2
    assert list(names) == sorted(names)
    assert not any("[" in name for name in names)


@pytest.mark.parametrize(("dataset", "count"), [("k400", 400), ("ssv2", 174), ("imagenet", 1000)])
def test_every_class_has_a_name_of_its_own(dataset: str, count: int) -> None:
    names = class_names(dataset)
    assert len(set(names)) == len(names) == count
    assert all(name and name == name.strip() for name in names)


def test_the_flip_pairs_are_all_classes_that_a_mirror_exchanges() -> None:
    names = class_names("ssv2")

    def mirrored(name: str) -> str:
        swap = {"left": "right", "right": "left"}
        return " ".join(swap.get(word, word) for word in name.split())

    found = {tuple(sorted((i, names.index(mirrored(name))))) for i, name in enumerate(names) if mirrored(name) in names}
    assert {pair for pair in found if pair[0] != pair[1]} == set(SSV2_FLIP_PAIRS)


def test_an_unknown_data_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no class names for the data set 'k600': did you mean 'k400'"):
        class_names("k600")
