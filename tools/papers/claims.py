"""Every figure that the five papers print about parameters and cost, with the network and the convention behind it.

``CLAIMS`` are recomputed and must match. In ``papers/beyond.py``, ``OPEN`` cannot be matched by anybody from what is
printed; the reason stands beside each, with the figure of vidzoo's own network where there is one. ``SAMPLED`` depend
on how many bins stay active, so a printed figure is turned into the number of bins that it means. ``COPIED`` are other
authors' figures, quoted by a paper, for networks outside this zoo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from papers.costs import Figure, Size, fvcore_gibi, gmac, mmcv_giga, params, saved_ratio, twice_cut
from papers.layers import full_conv_macs, stdcf_macs, stdcf_parameter_ratio


@dataclass(frozen=True)
class Claim:
    """One printed figure; ``figure`` recomputes it, in the unit in which it is printed."""

    paper: str
    place: str
    what: str
    printed: str
    unit: str
    figure: Figure | None
    why: str = ""
    """Why the figure cannot be matched; empty where it must be."""
    within: float = 0.0
    """Relative distance up to which a ratio of measured quantities agrees; 0 asks for the printed digits."""


@dataclass(frozen=True)
class Sampled:
    """A figure that depends on the active bins; two samplers (SlowFast) are not a line and have no entry here."""

    place: str
    what: str
    printed: tuple[str, ...]
    meant: tuple[float, ...]
    """The bins behind each printed figure, from a network and a count of its own: const + slope * bins."""
    model: str
    size: Size
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def bins(self) -> int:
        """The most bins that there can be."""
        return int(dict(self.options).get("bins", self.size[0]))


MAC = "G MAC"
FVCORE = "2^30 (MAC + 2 norm)"
MMCV = "G (MAC + 2 norm + ReLU)"
MILLIONS = "M parameters"
K200 = 200  # mini-Kinetics, ATFR section 5.1

_TABLE_2 = {  # filter analysis: row, temporal kernels of stem and stages, printed
    "orig": ((3, 3, 3, 3, 3), "240"),
    "a": ((1, 3, 3, 3, 3), "233"),
    "b": ((1, 1, 3, 3, 3), "212"),
    "c": ((1, 1, 1, 3, 3), "184"),
    "d": ((1, 1, 1, 1, 3), "143"),
    "2D CNN": ((1, 1, 1, 1, 1), "122"),
    "e": ((3, 1, 1, 1, 1), "130"),
    "g": ((3, 3, 3, 1, 1), "178"),
    "h": ((3, 3, 3, 3, 1), "219"),
    "b1": ((1, 1, 3, 3, 5), "233"),
    "b2": ((1, 1, 3, 5, 5), "274"),
    "b3": ((1, 1, 5, 5, 5), "302"),
    "c1": ((1, 1, 1, 3, 5), "205"),
    "c2": ((1, 1, 1, 5, 5), "247"),
}
_I3D: Size = (32, 224, 224)

CLAIMS = [
    # STDCF. Its KTH networks are vidzoo's own (Table B is not printed); the ratios hold for any three layers.
    Claim("STDCF", "2.4", "layer / 3D convolution, t=k=3, M=3, N=2", "0.2222", "ratio", stdcf_parameter_ratio(3)),
    Claim("STDCF", "2.4", "layer / 2D convolution, t=k=3, M=3, N=2", "0.6667", "ratio", stdcf_parameter_ratio(1)),
    Claim(
        "STDCF",
        "2.4",
        "FLOPs of a layer of 64 channels on 8x28x28; printed: the value of the formula",
        f"{stdcf_macs():.4f}",
        "G FLOP",
        full_conv_macs(),
    ),
    *(
        Claim(
            "STDCF",
            "Table 2",
            f"{name}: memory of 8x60x80 against 16x60x80",
            printed,
            "ratio",
            saved_ratio(model, (8, 60, 80), (16, 60, 80), in_chans=3, num_classes=6),
            within=0.01,
        )
        for name, model, printed in (
            ("3D convolution", "c3d_c3", "0.4993"),
            ("rank-1", "rank1_c3", "0.4987"),
            ("STDCF", "stdcf_c3", "0.4983"),
        )
    ),
    Claim("STDCF", "Table 3", "R(2+1)D-34", "63.7", MILLIONS, params("r2plus1d_34")),
    Claim(
        "STDCF",
        "Table 3",
        "R(2+1)D-34 with spatial pooling (mmaction2), 8x256x256",
        "53.2",
        MMCV,
        mmcv_giga("r2plus1d_34", (8, 256, 256), stem_pool=True, stem_middle=83),
    ),
    Claim("STDCF", "Table 3", "SlowFast-50 8x8", "34.6", MILLIONS, params("slowfast_r50_8x8")),
    Claim("STDCF", "Table 3", "SlowFast-50 8x8, 256x256", "65.7", MAC, gmac("slowfast_r50_8x8", (32, 256, 256))),
    Claim("STDCF", "Table 3", "TSM-50 (a 2D ResNet-50)", "24.3", MILLIONS, params("c2d_r50")),
    Claim("STDCF", "Table 3", "TSM-50, 8x224x224 (printed as 33.0)", "33", MAC, gmac("c2d_r50", (8, 224, 224))),
    Claim(
        "STDCF",
        "Table 4",
        "STDCF-50: memory of stage t (8x112x112) against full size",
        "0.24",
        "ratio",
        saved_ratio("stdcf_r50", (8, 112, 112), (8, 224, 224)),
        within=0.06,
    ),
    Claim(
        "STDCF",
        "Table 4",
        "STDCF-50: memory of stage s (4x224x224) against full size",
        "0.48",
        "ratio",
        saved_ratio("stdcf_r50", (4, 224, 224), (8, 224, 224)),
        within=0.06,
    ),
    # Filter analysis.
    *(
        Claim(
            "I3D filters",
            "Table 2",
            f"I3D-50 row {row}, {'-'.join(map(str, lengths))}",
            printed,
            FVCORE,
            fvcore_gibi("i3d_r50", _I3D, t_lengths=lengths, num_classes=174),
        )
        for row, (lengths, printed) in _TABLE_2.items()
    ),
    *(
        Claim("I3D filters", "Table 5", f"{name}, 32x224x224", printed, FVCORE, fvcore_gibi(model, _I3D, **options))
        for name, model, printed, options in (
            ("I3D-18", "i3d_r18", "161", {"num_classes": 174}),
            ("I3D-18 1-1-3-3-5", "i3d_r18_11335", "151", {"num_classes": 174}),
            ("I3D-50", "i3d_r50", "240", {"num_classes": 174}),
            ("I3D-50 1-1-3-3-5", "i3d_r50_11335", "233", {"num_classes": 174}),
            ("S3D-50", "s3d_r50", "148", {"num_classes": 174}),
            ("S3D-50 1-1-3-3-5", "s3d_r50", "140", {"num_classes": 174, "t_lengths": (1, 1, 3, 3, 5)}),
        )
    ),
    # GST.
    Claim("GST", "Table 2", "C2D", "23.9", MILLIONS, params("c2d_r50", num_classes=174)),
    Claim("GST", "Table 2", "GST, alpha 1/2", "23.9", MILLIONS, params("gst_r50_alpha2", num_classes=174)),
    Claim("GST", "Table 2", "GST, alpha 1/4", "21.0", MILLIONS, params("gst_r50", num_classes=174)),
    Claim("GST", "Table 3", "TSM-50, 8x224x224", "33", MAC, gmac("c2d_r50", (8, 224, 224), num_classes=174)),
    Claim("GST", "Table 3", "TSM-50, 16x224x224", "65", MAC, gmac("c2d_r50", (16, 224, 224), num_classes=174)),
    # ATFR.
    Claim(
        "ATFR",
        "Table 4",
        "SlowFast-18 8x8, 224x224",
        "30.9",
        MAC,
        gmac("slowfast_r18_8x8", (32, 224, 224), num_classes=K200),
    ),
    Claim(
        "ATFR",
        "Table 4",
        "SlowFast-18 with 64 frames",
        "61.8",
        MAC,
        gmac("slowfast_r18_8x8", (64, 224, 224), num_classes=K200),
    ),
    Claim(
        "ATFR",
        "Table 4",
        '"R(2+1)D" 32f = C2D-18 with pooling',
        "46.5",
        MAC,
        gmac("c2d_pool_r18", (32, 224, 224), num_classes=K200),
    ),
    Claim(
        "ATFR",
        "Table 4",
        '"R(2+1)D" 64f = twice the above',
        "93.1",
        MAC,
        gmac("c2d_pool_r18", (32, 224, 224), times=2, num_classes=K200),
    ),
    Claim("ATFR", "Tables 6, 7, 8", "X3D-S, 13x160x160", "1.9", MAC, gmac("x3d_s", (13, 160, 160))),
    Claim("ATFR", "Table 8", "X3D-S", "3.79", MILLIONS, params("x3d_s")),
    Claim(
        "ATFR",
        "Table 7",
        "SlowFast-18 8x8, 256x256",
        "40.4",
        MAC,
        gmac("slowfast_r18_8x8", (32, 256, 256), num_classes=K200),
    ),
    Claim(
        "ATFR",
        "Table 7",
        "SlowFast-50 8x8, 256x256",
        "65.7",
        MAC,
        gmac("slowfast_r50_8x8", (32, 256, 256), num_classes=K200),
    ),
    Claim(
        "ATFR",
        "Table 7",
        '"R(2+1)D"-50 = C2D-50 with pooling',
        "101.8",
        MAC,
        gmac("c2d_pool_r50", (32, 256, 256), num_classes=K200),
    ),
    Claim("ATFR", "Table 7", "I3D-50 (3x1x1)", "148.4", MAC, gmac("i3d_3x1x1_r50", (32, 256, 256), num_classes=K200)),
    Claim("ATFR", "Table 7", "3DResNet-50", "40.8", MAC, gmac("resnet3d_50", (32, 256, 256), num_classes=K200)),
    Claim("ATFR", "Table 8", "X3D-L, 16x312x312", "18.3", MAC, gmac("x3d_l", (16, 312, 312))),
    Claim("ATFR", "Table 8", "X3D-L, 16x356x356", "24.8", MAC, gmac("x3d_l", (16, 356, 356))),
    Claim("ATFR", "Table 8", "X3D-L", "6.1", MILLIONS, params("x3d_l")),
    Claim("ATFR", "Table 8", "X3D-XL, 16x312x312", "35.8", MAC, gmac("x3d_xl", (16, 312, 312))),
    Claim("ATFR", "Table 8", "X3D-XL, 16x356x356", "48.4", MAC, gmac("x3d_xl", (16, 356, 356))),
    Claim("ATFR", "Table 8", "X3D-XL", "11.09", MILLIONS, params("x3d_xl")),
    Claim("ATFR", "Table 9", "X3D-M, 16x256x256", "6.2", MAC, gmac("x3d_m", (16, 256, 256))),
    Claim("ATFR", "Table 8", "SlowFast-50 4x16, 256x256", "36.1", MAC, gmac("slowfast_r50_4x16", (32, 256, 256))),
    Claim("ATFR", "Table 8", "R(2+1)D-34, 32x112x112", "152", MAC, gmac("r2plus1d_34", (32, 112, 112))),
    Claim("ATFR", "Table 8", "R(2+1)D-34", "63.6", MILLIONS, params("r2plus1d_34")),
    Claim("ATFR", "Table 8", "two-stream R(2+1)D-34", "304", MAC, gmac("r2plus1d_34", (32, 112, 112), times=2)),
    Claim("ATFR", "Table 8", "two-stream R(2+1)D-34 (twice the cut 63.6)", "127.2", MILLIONS, twice_cut("r2plus1d_34")),
    Claim("ATFR", "Table 8", "TSM-50, 16x224x224", "65", MAC, gmac("c2d_r50", (16, 224, 224))),
    Claim("ATFR", "Table 8", "TSM-50", "24.3", MILLIONS, params("c2d_r50")),
]
