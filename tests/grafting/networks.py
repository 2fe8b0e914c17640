"""Small networks over pictures for the tests of grafting, untrained but lively."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.checkpoint import read_state_dict


def lively(network: nn.Module) -> nn.Module:
    """Norms with statistics and scales that make every path count, and biases that are not zero."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
    for name, value in network.named_parameters():
        if name.endswith("gamma"):  # ConvNeXt starts its blocks at a millionth
            nn.init.uniform_(value, 0.2, 0.5, generator=generator)
    return network


def timm_network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return lively(timm.create_model(name, pretrained=False, **options)).eval()


def frame_by_frame(network: nn.Module, clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T, classes): what the 2D network says of each frame."""
    return torch.stack([network(clip[:, :, t]) for t in range(clip.shape[2])], dim=1)


def still(batch: int, frames: int, side: int) -> Tensor:
    """Clips of one picture each, smooth as pictures are."""
    picture = F.interpolate(torch.randn(batch, 3, 6, 6), size=(side, side), mode="bicubic")
    return picture.unsqueeze(2).repeat(1, 1, frames, 1, 1)


class CifarBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.wider = stride, planes - inplanes

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:  # option A of He et al. 2016: every second position, zeros for the new channels
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.wider // 2, self.wider // 2))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet-20, -56: keys of github.com/akamaster/pytorch_resnet_cifar10, everything without weights a function."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inplanes = 16
        for stage, planes in enumerate((16, 32, 64), start=1):
            chain = []
            for position in range(blocks):
                chain.append(CifarBlock(inplanes, planes, 2 if position == 0 and stage > 1 else 1))
                inplanes = planes
            setattr(self, f"layer{stage}", nn.Sequential(*chain))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.linear(x.view(x.size(0), -1))


def real_mobilenet(data: Path) -> nn.Module:
    """timm's MobileNetV2 with real ImageNet weights, padded as TensorFlow does."""
    weights = _file(data, "timm_mobilenetv2_100_same_in1k_1001.safetensors")
    network = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=1001, pad_type="same")
    network.load_state_dict({key: value.float() for key, value in read_state_dict(weights).items()}, strict=False)
    return network.eval()


def real_cifar(data: Path, blocks: int) -> nn.Module:
    """A CIFAR ResNet with real weights: 3 blocks per stage, or 9."""
    weights = _file(data, {3: "resnet20-12fca82f.th", 9: "resnet56-4bfd9763.th"}[blocks])
    network = CifarResNet(blocks)
    network.load_state_dict(read_state_dict(weights))
    return network.eval()


def _file(data: Path, name: str) -> Path:
    if not (data / "weights" / name).is_file():
        pytest.skip(f"the real weights {name} are not on this machine")
    return data / "weights" / name
