"""The cards say what the registry and the measurements say, and a card that no longer does is found."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn

import vidzoo
from vidzoo.hub.citations import bibtex
from vidzoo.pretrained import VideoCfg

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted((ROOT / "model_cards").glob("*.md"))
START = VideoCfg(
    architecture="net",
    tag="in1k",
    is_classifier=False,
    donor="timm:resnet18.a1_in1k",
    donor_layout="resnet-2d",
    dataset="ImageNet-1k",
    license="apache-2.0",
    description="How it starts.",
)
TRAINED = VideoCfg(
    architecture="net",
    tag="k400",
    donor="https://example.org/a/net.pyth",
    donor_sha256="abcd12345678",
    dataset="Kinetics-400",
    source="its authors",
    metrics={"top-1 %": 71.5},
)


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    tools = str(ROOT / "tools")
    sys.path.insert(0, tools)
    yield importlib.import_module("make_model_cards")
    sys.path.remove(tools)


def registered() -> list[str]:
    modules = [module for module in vidzoo.list_modules() if module.startswith("vidzoo.models.")]
    modules.remove("vidzoo.models.grafted")
    return [name for module in modules for name in vidzoo.list_models(module=module)]


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_registered_name_stands_in_the_costs_of_exactly_one_card() -> None:
    found = Counter(
        name
        for file in CARDS
        for name in re.findall(r"^\| `(\w+)` \|", section(file.read_text("utf-8"), "Sizes and costs"), re.M)
    )
    assert sorted(found) == sorted(registered())
    assert set(found.values()) == {1}


def test_every_set_of_weights_stands_in_a_card_with_where_it_comes_from() -> None:
    origins = "".join(section(file.read_text("utf-8"), "Weights and their origin") for file in CARDS)
    for name in vidzoo.list_pretrained():
        cfg = vidzoo.get_pretrained_cfg(name)
        if cfg.architecture in registered():
            row = next(line for line in origins.splitlines() if line.startswith(f"| `{name}` |"))
            assert (cfg.donor.removeprefix("timm:") or "a file of this package") in row
            assert ("initialisation" in row) == (not cfg.is_classifier)


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.stem)
def test_a_card_is_one_that_the_hub_takes(file: Path) -> None:
    data = ModelCard(file.read_text("utf-8")).data
    assert data.library_name == "vidzoo"
    assert data.pipeline_tag == "video-classification"
    assert data.license == ("other" if "." in file.stem else "apache-2.0")
    assert {"vidzoo", "action-recognition"} < set(data.tags or [])
    assert data.eval_results is None  # nothing here was measured on the weights that a card describes


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.stem)
def test_the_code_of_a_card_is_code(file: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", file.read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        compile(block, file.name, "exec")


def test_the_code_of_a_card_runs(tool: ModuleType) -> None:
    usage = importlib.import_module("cards.usage")
    bare = vidzoo.get_pretrained_cfg("rank1_c3").replace(tag="", donor="", num_classes=6)
    code = re.search(r"```python\n(.*?)```", usage.usage_section([bare]), re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], "card", "exec"), names)
    assert names["logits"].shape == (1, 6)
    assert names["own"].num_classes == 5
    assert len(names["maps"]) == 3


def test_the_code_of_a_card_shows_what_can_do_most(tool: ModuleType) -> None:
    usage = importlib.import_module("cards.usage")
    bare = VideoCfg(architecture="net_r50")
    assert 'create_model("net_r50").eval()' in usage.usage_section([VideoCfg(architecture="net"), bare])
    text = usage.usage_section([bare, START])
    assert 'create_model("net.in1k", pretrained=True).eval()' in text
    assert "# (1, 400) logits that mean nothing before fine-tuning" in text
    assert "vidzoo finetune net.in1k VIDEOS --pretrained" in text
    text = usage.usage_section([bare, START, TRAINED.replace(architecture="net_large"), TRAINED])
    assert 'create_model("net.k400", pretrained=True).eval()' in text
    assert "mean nothing" not in text


def test_a_change_of_a_cfg_makes_the_check_fail(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--only", "kth", "--folder", str(tmp_path)]
    assert tool.main(["--check", *where]) == 1  # there is no card yet
    assert tool.main(where) == 0
    assert tool.main(["--check", *where]) == 0
    before = vidzoo.get_arch_pretrained_cfgs
    monkeypatch.setattr(
        vidzoo,
        "get_arch_pretrained_cfgs",
        lambda name: {tag: cfg.replace(short_side=61) for tag, cfg in before(name).items()},
    )
    capsys.readouterr()
    assert tool.main(["--check", *where]) == 1
    assert "stale: kth.md" in capsys.readouterr().err
    assert "shorter side to 60" in (tmp_path / "kth.md").read_text("utf-8")


def test_a_card_of_what_is_no_longer_there_is_found(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "writers", lambda latency: {"new": lambda: "new"})
    (tmp_path / "old.md").write_text("old")
    assert tool.main(["--check", "--folder", str(tmp_path)]) == 2
    assert tool.main(["--folder", str(tmp_path)]) == 1
    assert "stale: old.md" in capsys.readouterr().err
    (tmp_path / "old.md").unlink()
    assert tool.main(["--check", "--folder", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        tool.main(["--only", "old", "--folder", str(tmp_path)])
    assert "there are new" in capsys.readouterr().err


def test_there_is_a_card_for_every_family_and_for_weights_that_ship(tool: ModuleType) -> None:
    assert {file.stem for file in CARDS} == set(tool.writers(tool.Latency({})))


def test_a_start_is_told_from_a_classifier_and_figures_from_measurements(tool: ModuleType) -> None:
    origin = importlib.import_module("cards.origin")
    text = origin.origin_section({"net": [VideoCfg(architecture="net"), START, TRAINED], "bare": [VideoCfg()]})
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| `")}
    assert rows.keys() == {"`net.in1k`", "`net.k400`"}
    assert (
        "[timm:resnet18.a1_in1k](https://huggingface.co/timm/resnet18.a1_in1k) | `resnet-2d` | initialisation |" in text
    )
    assert "[net.pyth](https://example.org/a/net.pyth), sha256 abcd1234..." in rows["`net.k400`"]
    assert "trained classifier of 400 classes" in rows["`net.k400`"]
    assert "top-1 %: 71.5 (its authors), not run here" in rows["`net.k400`"]
    assert "This is an initialisation, not an action classifier" in text
    assert "- `net.in1k`: How it starts." in text
    assert "Without weights, so random at first: `bare`." in text
    alone = origin.origin_section({"net": [TRAINED]})
    assert "initialisation" not in alone.lower()
    assert "Without weights" not in alone


def test_front_matter_names_data_and_donors_of_weights_only(tool: ModuleType) -> None:
    origin = importlib.import_module("cards.origin")
    unfed = VideoCfg(architecture="net", dataset="nobody's")
    data = ModelCard(origin.front_matter("no", [unfed, START, TRAINED])).data
    assert data.datasets == ["imagenet-1k", "kinetics-400"]
    assert data.base_model == ["timm/resnet18.a1_in1k"]
    assert data.tags == ["vidzoo", "action-recognition", "video", "no"]
    bare = ModelCard(origin.front_matter("net", [unfed])).data
    assert bare.datasets is None
    assert bare.base_model is None


def test_every_printed_figure_has_one_card(tool: ModuleType) -> None:
    figures = importlib.import_module("cards.figures")
    families = tool.families()
    owners = [{*family.cfgs, name} for name, family in families.items()]
    claims = [figures.home(claim) for claim in (*figures.CLAIMS, *figures.OPEN)]
    for name in (*claims, *(row.model for row in figures.SAMPLED), *(row[3] for row in figures.PATHWAYS)):
        assert sum(name in own for own in owners) == 1, name
    assert "x3d_s" in claims
    assert "stdcf" in claims


def test_a_figure_stands_beside_the_printed_one_with_a_verdict(tool: ModuleType) -> None:
    figures = importlib.import_module("cards.figures")
    text = figures.figures_section(["s3d"], "s3d")
    assert "| GST | Table 3 | S3D (BN-Inception), 64x224x224 | G MAC | 66.38 | 71.914 | the torchvision S3D," in text
    text = figures.figures_section(["c3d_c3"], "kth")
    assert "| 0.4993 | 0.50001 | agrees within 1% |" in text
    assert figures.figures_section(["ctm_r50"], "ctm").startswith("None of the five papers")


def test_an_adaptive_network_has_a_line_and_no_single_cost(tool: ModuleType) -> None:
    costs = importlib.import_module("cards.costs")
    cfgs = {name: [vidzoo.get_pretrained_cfg(name)] for name in ("x3d_xs", "x3d_s_atfr", "slowfast_r18_8x8_atfr")}
    rows = costs.costs_section(cfgs, tool.Latency({})).splitlines()
    found = {row.split("`")[1]: row for row in rows if row.startswith("| `")}
    assert re.search(r"\| 3\.79 M \| 4x182x182 \| 0\.84 \| not measured \|", found["x3d_xs"])
    assert re.search(r"\| 0\.538 \+ 0\.1686 B', at most 2\.73 \|", found["x3d_s_atfr"])
    assert re.search(r"with 1 and 1 frames left, [\d.]+ with all 8 and 32 \|", found["slowfast_r18_8x8_atfr"])


def test_every_paper_of_the_zoo_can_be_cited() -> None:
    for name in registered():
        for cfg in vidzoo.get_arch_pretrained_cfgs(name).values():
            assert bibtex(cfg.paper), cfg.paper


def test_the_latencies_are_of_networks_that_exist_at_half_their_crop(tool: ModuleType) -> None:
    for name, ratio in tool.Latency.read(tool.FILE).ratios.items():
        cfg = vidzoo.get_pretrained_cfg(name)
        assert name in registered()
        assert ratio.size == (cfg.num_frames, *(side // 2 for side in cfg.eval_crop_size))
        assert 0 < ratio.low <= ratio.ratio <= ratio.high


def test_a_measurement_is_the_least_time_over_the_least_of_the_reference(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latency = importlib.import_module("cards.latency")
    times = {"VideoResNet": iter([9.0, *[2.0, 1.0, 4.0] * 3]), "ThreeLayers": iter([0.5, 1.0, 1.0] * 3)}

    def seconds(network: nn.Module, clip: Tensor) -> float:
        kind = "VideoResNet" if type(network).__name__ == "VideoResNet" else "ThreeLayers"
        return next(times[kind])

    monkeypatch.setattr(latency, "_seconds", seconds)
    monkeypatch.setattr(latency, "ROUNDS", 3)
    file = tmp_path / "latency.json"
    kept = latency.Ratio(size=(8, 112, 112), clip="noise", ratio=0.4, low=0.3, high=0.5, torch="0")
    latency.Latency({"gst_r50": kept, "no_such_net": kept}).write(file)
    threads = torch.get_num_threads()
    latency.measure(["rank1*"], file)
    assert torch.get_num_threads() == threads
    found = latency.Latency.read(file).ratios
    assert found.keys() == {"gst_r50", "rank1_c3"}
    assert found["gst_r50"] == kept
    measured = found["rank1_c3"]
    assert (measured.size, measured.clip) == ((16, 30, 40), "noise")
    assert (measured.ratio, measured.low, measured.high) == (0.5, 0.25, 1.0)
    assert latency.Latency(found).cells("rank1_c3") == ("0.5", "0.25 to 1", "16x30x40")
    assert latency.Latency(found).cells("c3d_c3") == ("not measured", "", "")


def test_an_adaptive_network_is_timed_on_a_still_clip(tool: ModuleType) -> None:
    latency = importlib.import_module("cards.latency")
    _, clip, kind = latency._prepared("x3d_s_atfr")
    assert kind == "still"
    assert clip.shape == (1, 3, 13, 91, 91)
    assert torch.equal(clip, clip[:, :, :1].expand_as(clip))
    assert latency._prepared("rank1_c3")[2] == "noise"


@pytest.mark.parametrize("name", ["x3d_xs", "gst_r18", "slowfast_r18_8x8"])
def test_counting_without_what_is_free_gives_the_same_figures(tool: ModuleType, name: str) -> None:
    shortcut = importlib.import_module("cards.shortcut").Shortcut
    saved = importlib.import_module("papers.costs")._saved.__wrapped__
    size = (8, 32, 32)
    expected = vidzoo.profile(name, size), saved(name, size, ())
    with shortcut():
        assert (vidzoo.profile(name, size), saved(name, size, ())) == expected
        model = vidzoo.create_model("x3d_xs")
    assert model.conv5.weight.std() > 0  # what has a place is drawn


def test_a_donor_is_called_by_its_file_or_where_it_has_no_name_by_its_host(tool: ModuleType) -> None:
    address = importlib.import_module("cards.origin")._address
    assert address(TRAINED) == "[net.pyth](https://example.org/a/net.pyth), sha256 abcd1234..."
    drive = "https://drive.example.org/download?id=1&export=download"
    assert address(TRAINED.replace(donor=drive, donor_sha256="")) == f"[a file at drive.example.org]({drive})"


def test_what_most_are_fed_with_is_said_last_and_without_a_list_of_names(tool: ModuleType) -> None:
    feeding = importlib.import_module("cards.feeding").feeding_section
    many = [VideoCfg(architecture=f"net_{number}") for number in range(9)]
    odd = VideoCfg(architecture="long", num_frames=64)
    lines = feeding([*many, odd]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `long`", "| all others"]
    assert feeding(many).splitlines()[2].startswith("| all | 8 frames")
    assert "`net_0`, `net_1`" in feeding([*many[:2], odd]).splitlines()[-1]
