"""BibTeX of the papers behind the networks of the zoo: authors, title, venue and year, as other papers cite them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["bibtex"]


@dataclass(frozen=True)
class _Paper:
    key: str
    authors: str
    title: str
    venue: str
    year: int


_PAPERS = (
    _Paper(
        "miao2021stdcf",
        "Miao, Zichen and Wang, Ze and Cheng, Xiuyuan and Qiu, Qiang",
        "Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks",
        "NeurIPS",
        2021,
    ),
    _Paper(
        "liu2020ctm",
        "Liu, Qian and Wang, Tao and Liu, Jie and Guan, Yang and Bu, Qi and Yang, Longfei",
        "CTM: Collaborative Temporal Modeling for Action Recognition",
        "ICIP",
        2020,
    ),
    _Paper(
        "kobayashi2024filters",
        "Kobayashi, Takumi and Ye, Jiaxing",
        "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification",
        "WACV",
        2024,
    ),
    _Paper(
        "luo2019gst",
        "Luo, Chenxu and Yuille, Alan",
        "Grouped Spatial-Temporal Aggregation for Efficient Action Recognition",
        "ICCV",
        2019,
    ),
    _Paper(
        "fayyaz2021atfr",
        "Fayyaz, Mohsen and Bahrami, Emad and Diba, Ali and Noroozi, Mehdi and Adeli, Ehsan and Van Gool, Luc and "
        "Gall, Juergen",
        "3D CNNs with Adaptive Temporal Feature Resolutions",
        "CVPR",
        2021,
    ),
    _Paper(
        "wang2018nonlocal",
        "Wang, Xiaolong and Girshick, Ross and Gupta, Abhinav and He, Kaiming",
        "Non-local Neural Networks",
        "CVPR",
        2018,
    ),
    _Paper(
        "feichtenhofer2019slowfast",
        "Feichtenhofer, Christoph and Fan, Haoqi and Malik, Jitendra and He, Kaiming",
        "SlowFast Networks for Video Recognition",
        "ICCV",
        2019,
    ),
    _Paper(
        "feichtenhofer2020x3d",
        "Feichtenhofer, Christoph",
        "X3D: Expanding Architectures for Efficient Video Recognition",
        "CVPR",
        2020,
    ),
    _Paper(
        "tran2018closer",
        "Tran, Du and Wang, Heng and Torresani, Lorenzo and Ray, Jamie and LeCun, Yann and Paluri, Manohar",
        "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
        "CVPR",
        2018,
    ),
    _Paper(
        "xie2018s3d",
        "Xie, Saining and Sun, Chen and Huang, Jonathan and Tu, Zhuowen and Murphy, Kevin",
        "Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification",
        "ECCV",
        2018,
    ),
    _Paper(
        "qiu2017p3d",
        "Qiu, Zhaofan and Yao, Ting and Mei, Tao",
        "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks",
        "ICCV",
        2017,
    ),
)


def bibtex(text: str) -> str:
    """The entries of all papers whose title stands in ``text``, whatever its line breaks; empty where there is none."""
    flat = " ".join(text.split()).lower()
    return "\n\n".join(_entry(paper) for paper in _PAPERS if paper.title.lower() in flat)


def _entry(paper: _Paper) -> str:
    fields = {"author": paper.authors, "title": paper.title, "booktitle": paper.venue, "year": str(paper.year)}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@inproceedings{{{paper.key},", *lines, "}"])
