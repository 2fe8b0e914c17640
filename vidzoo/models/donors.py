"""Whose weights start which network: the donors of this zoo, their licences, and what becomes of them.

A donor is downloaded and converted when its tag is first asked for (:mod:`vidzoo.donors`). Where the topology is the same
its classifier comes along and the tag names the data (``.k400``); where it is not, the result is an initialisation: the
classifier, if any, has not learnt with the parts that are new, so ``is_classifier`` is False.
"""

from __future__ import annotations

from collections.abc import Mapping

from vidzoo.labels import class_names
from vidzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD, VideoCfg

__all__ = [
    "IBM",
    "IG65M",
    "IMAGENET_BOTTLENECK_26",
    "MMACTION",
    "PYSLOWFAST",
    "PYTORCHVIDEO",
    "TORCHVISION",
    "imagenet",
    "initialisation",
    "k400",
    "openmmlab",
    "ssv2",
]

PYTORCHVIDEO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo"
TORCHVISION = "https://download.pytorch.org/models"
IG65M = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0"
PYSLOWFAST = "https://dl.fbaipublicfiles.com/pyslowfast"
MMACTION = "https://download.openmmlab.com/mmaction/v1.0/recognition"
IBM = "https://github.com/IBM/action-recognition-pytorch/releases/download/weights-v0.1"

IMAGENET_BOTTLENECK_26 = "resnet26.bt_in1k"
"""Two bottlenecks per stage: the 2D network behind what PySlowFast calls R18."""
_IMAGENET = {18: "resnet18.a1_in1k", 34: "resnet34.a1_in1k", 50: "resnet50.a1_in1k", 101: "resnet101.a1h_in1k"}


def imagenet(base: VideoCfg, depth: int | str, over_time: str) -> dict[str, VideoCfg]:
    """The tag ``in1k``: a 2D ResNet of timm, trained on ImageNet, in the place of everything that looks at one frame.

    Args:
        depth: of the ResNet, or the name of the network in timm.
        over_time: how the part that looks over time starts, as the card says it.
    """
    name = _IMAGENET[depth] if isinstance(depth, int) else depth
    cfg = base.replace(
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        num_classes=1000,
        class_names=class_names("imagenet"),
        dataset="ImageNet-1k",
        is_classifier=False,
        donor=f"timm:{name}",
        donor_layout="resnet-2d",
        source=f"timm's {name}",
        license="apache-2.0",
        origin_url=f"https://huggingface.co/timm/{name}",
        description=f"Spatial filters, norms and classifier of timm's {name}, trained on ImageNet; {over_time}",
    )
    return {"in1k": cfg}


def k400(base: VideoCfg, url: str, layout: str, source: str, **changes: object) -> VideoCfg:
    """A network trained on Kinetics-400, with its classifier; ``changes`` are further fields of the cfg."""
    return _trained(base, url, layout, source, "k400", "Kinetics-400", changes)


def ssv2(base: VideoCfg, url: str, layout: str, source: str, **changes: object) -> VideoCfg:
    """A network trained on Something-Something-v2, with its classifier; ``changes`` are further fields of the cfg."""
    return _trained(base, url, layout, source, "ssv2", "Something-Something-v2", changes)


def openmmlab(
    base: VideoCfg,
    folder: str,
    file: str,
    top1: float,
    top5: float,
    *,
    views: str,
    data: str = "k400",
    **changes: object,
) -> VideoCfg:
    """One of mmaction2's networks, and what its cards print: percent right over ``views`` (clips x crops)."""
    dataset = {"k400": "Kinetics-400", "ssv2": "Something-Something-v2"}[data]
    told: dict[str, object] = {
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "license": "apache-2.0",
        "origin_url": "https://github.com/open-mmlab/mmaction2",
        "metrics": {f"top-1 %, {dataset}, {views} views": top1, f"top-5 %, {dataset}, {views} views": top5},
    }
    url = f"{MMACTION}/{folder}/{file}"
    return _trained(base, url, "mmaction", "mmaction2's model zoo", data, dataset, {**told, **changes})


def initialisation(donor: VideoCfg, base: VideoCfg, how: str, **changes: object) -> VideoCfg:
    """``donor``'s weights in another network, fed as ``base`` says, but with the donor's sampling, mean and deviation.

    Args:
        how: what becomes of the weights, as the card says it.
        changes: further fields of the cfg, which come before the donor's.
    """
    fields: dict[str, object] = {
        "sampling": donor.sampling,
        "mean": donor.mean,
        "std": donor.std,
        "num_classes": donor.num_classes,
        "class_names": donor.class_names,
        "dataset": donor.dataset,
        "is_classifier": False,
        "donor": donor.donor,
        "donor_layout": donor.donor_layout,
        "donor_sha256": donor.donor_sha256,
        "source": donor.source,
        "license": donor.license,
        "origin_url": donor.origin_url,
        "description": how,
    }
    return base.replace(**{**fields, **changes})


def _trained(
    base: VideoCfg, url: str, layout: str, source: str, names: str, dataset: str, changes: Mapping[str, object]
) -> VideoCfg:
    classes = class_names(names)
    fields: dict[str, object] = {
        "num_classes": len(classes),
        "class_names": classes,
        "dataset": dataset,
        "donor": url,
        "donor_layout": layout,
        "donor_sha256": _hash_in(url),
        "source": source,
    }
    return base.replace(**{**fields, **changes})


def _hash_in(url: str) -> str:
    """The start of the sha256 that torchvision and OpenMMLab write into the names of their files."""
    stem = url.rpartition("/")[2].rpartition(".")[0]
    start = stem.rpartition("-")[2]
    known = url.startswith((TORCHVISION, MMACTION))
    return start if known and len(start) == 8 else ""
