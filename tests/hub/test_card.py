"""The card says what is known, in a form that the Hub's own parser reads back."""

from __future__ import annotations

import numpy as np
import pytest
from huggingface_hub import ModelCard

from hub import tiny
from vidzoo.hub.card import model_card
from vidzoo.hub.citations import bibtex
from vidzoo.pretrained import VideoCfg
from vidzoo.profiling import Profile

CFG = tiny.CFG.replace(architecture="hub_tiny", tag="weizmann")


def test_the_front_matter_is_read_back_by_the_hubs_parser() -> None:
    data = ModelCard(model_card(CFG)).data
    assert data.library_name == "vidzoo"
    assert data.pipeline_tag == "video-classification"
    assert data.license == "apache-2.0"
    assert data.tags == ["vidzoo", "action-recognition", "video", "hub_tiny"]
    assert data.datasets == ["weizmann"]
    assert data.base_model is None
    assert data.eval_results is None


def test_only_measured_figures_become_results() -> None:
    card = ModelCard(model_card(CFG, 'My "model": a', {"top1": 91.5, "mean class": 88}))
    results = {result.metric_name: result for result in card.data.eval_results or []}
    assert results.keys() == {"top-1 accuracy", "mean class"}
    assert results["top-1 accuracy"].metric_value == 91.5
    assert results["top-1 accuracy"].dataset_name == "Weizmann"
    assert card.data.model_name == 'My "model": a'
    assert "| top-1 accuracy | 91.5 | measured |" in card.text
    assert "| top1 of the paper | 71.5 | reported by this test |" in card.text


def test_a_card_without_figures_says_so() -> None:
    assert "None have been measured." in model_card(CFG.replace(metrics={}))


@pytest.mark.parametrize(
    ("license", "name", "custom"),
    [
        ("MIT", "mit", None),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0", None),
        ("Weizmann: research only", "other", "weizmann-research-only"),
        ("", "unknown", None),
    ],
)
def test_a_licence_is_an_identifier_of_the_hub_or_other_by_name(license: str, name: str, custom: str | None) -> None:
    data = ModelCard(model_card(CFG.replace(license=license, origin_url="https://example.org/terms"))).data
    assert data.license == name
    assert getattr(data, "license_name", None) == custom
    assert getattr(data, "license_link", None) == (custom and "https://example.org/terms")


def test_a_fine_tuned_model_names_its_base() -> None:
    card = ModelCard(model_card(CFG, base_model="zoo/base@v1"))
    assert card.data.base_model == "zoo/base"
    assert "fine-tuned from [zoo/base@v1]" in card.text


def test_texts_cannot_break_out_of_yaml_or_tables() -> None:
    nasty = 'a: "b"\n---\n# <b>x</b> | y\x07 \U0001f600'
    cfg = CFG.replace(
        license=nasty, dataset=nasty, source=nasty, description=nasty, origin_url=nasty, metrics={nasty: 1.0}
    )
    card = ModelCard(model_card(cfg, nasty, {nasty: 2.0}))
    assert card.data.library_name == "vidzoo"
    assert card.data.license_link == 'a: "b"---# <b>x</b> | y \U0001f600'
    rows = [line for line in card.text.splitlines() if line.startswith("|") and "measured" in line]
    assert all(row.count("|") == 4 for row in rows)
    assert "<b>" not in card.text


def test_the_input_is_told_in_words() -> None:
    text = model_card(CFG)
    assert "2 frames, every second one at 12.5 frames per second" in text
    assert "shorter side to 8 (bilinear), crop of 8 x 8" in text
    assert "`(1, 3, 2, 8, 8)`" in text
    assert "one from each of 2 equal parts" in model_card(CFG.replace(sampling="segments"))


def test_many_classes_are_folded_and_none_are_no_list() -> None:
    names = tuple(f"class {number}" for number in range(40))
    assert "<details><summary>40 classes</summary>" in model_card(CFG.replace(num_classes=40, class_names=names))
    assert "wave, jump &#124; run" in model_card(CFG)
    assert "4, without names." in model_card(CFG.replace(class_names=()))
    assert "returns its pooled features" in model_card(CFG.replace(num_classes=0, class_names=()))


def test_an_initialisation_says_so_in_so_many_words() -> None:
    start = CFG.replace(is_classifier=False, donor="timm:resnet18.a1_in1k", dataset="ImageNet-1k")
    text = model_card(start)
    assert "This is an initialisation, not an action classifier" in text
    assert "with weights trained on ImageNet-1k, made from `timm:resnet18.a1_in1k`" in text
    assert "must be trained on a task" in text
    assert "Its figures hold" not in text
    assert "None yet: its 4 outputs, left from ImageNet-1k, do not name actions." in text
    # Without names of its own the head is new: nothing of it is left from anywhere.
    new = model_card(start.replace(class_names=()))
    assert "None yet: its 4 outputs do not name actions." in new
    assert "jump &#124; run" not in text
    assert "an initialisation" not in model_card(CFG)


def test_the_model_that_weights_were_made_from_is_a_base_only_where_the_hub_has_it() -> None:
    assert ModelCard(model_card(CFG.replace(donor="timm:resnet18.a1_in1k"))).data.base_model == "timm/resnet18.a1_in1k"
    converted = CFG.replace(provenance={"donor": "timm:resnet50.a1_in1k"})
    assert ModelCard(model_card(converted)).data.base_model == "timm/resnet50.a1_in1k"
    assert "fine-tuned from" not in model_card(converted)
    assert ModelCard(model_card(converted, base_model="zoo/base@v1")).data.base_model == "zoo/base"
    assert ModelCard(model_card(CFG.replace(donor="https://example.org/x3d.pyth"))).data.base_model is None


def test_the_donor_its_revision_hash_and_conversion_are_told() -> None:
    expected = CFG.replace(donor="https://example.org/x3d.pyth", donor_layout="pytorchvideo", donor_sha256="abcd1234")
    text = model_card(expected)
    assert "| donor | https://example.org/x3d.pyth |" in text
    assert "| sha256 of the donor | abcd1234 |" in text
    assert "| conversion | pytorchvideo |" in text
    assert "| top1 of the paper | 71.5 | reported by this test, not measured by vidzoo |" in text
    found = {"donor": "timm:a|b", "donor_revision": "f00", "donor_sha256": "abcd12345678", "vidzoo_version": "1.2"}
    text = model_card(expected.replace(provenance=found))
    assert "| donor | timm:a&#124;b |" in text
    assert "| revision of the donor | f00 |" in text
    assert "| sha256 of the donor | abcd12345678 |" in text
    assert "| vidzoo that converted it | 1.2 |" in text
    assert "donor" not in model_card(CFG)


def test_size_and_cost_stand_in_a_table_with_their_convention() -> None:
    text = model_card(CFG, costs=Profile(3_790_000, 1_960_000_000, 1, (3, 13, 160, 160)))
    assert "| parameters | 3.79 M |" in text
    assert "3 x 13 x 160 x 160" in text
    assert "| GMAC | 1.96 |" in text
    assert "multiply-adds of convolutions" in text
    noise = model_card(CFG, costs=Profile(1, 10**9, 1, (3, 13, 160, 160), measured=True))
    assert "| GMAC | 1.00, of a clip of noise: it depends on the clip |" in noise
    assert "GMAC" not in model_card(CFG)


def test_a_known_paper_is_cited_with_its_authors_and_any_other_by_name() -> None:
    known = model_card(CFG.replace(paper="SlowFast Networks for Video Recognition, ICCV 2019"))
    assert "author = {Feichtenhofer, Christoph and Fan, Haoqi and Malik, Jitendra and He, Kaiming}" in known
    assert "## Citation\n\nA Paper, 2019." in model_card(CFG)
    assert "## Citation" not in model_card(CFG.replace(paper=""))


def test_two_papers_in_one_text_are_both_cited() -> None:
    text = "after X3D: Expanding Architectures for\nEfficient Video Recognition, and non-local neural networks"
    assert bibtex(text).count("@inproceedings{") == 2
    assert bibtex("A Paper, 2019") == ""


def test_scalars_of_numpy_come_back_as_numbers() -> None:
    cfg = CFG.replace(fps=np.float64(12.5), metrics={"top5": np.float32(90.5)})
    card = ModelCard(model_card(cfg, "name", {"top1": np.float32(91.5), "videos": np.int64(60)}))
    values = {result.metric_name: result.metric_value for result in card.data.eval_results or []}
    assert values == {"top-1 accuracy": 91.5, "videos": 60.0}
    assert all(type(value) is float for value in values.values())
    assert "| top-5 accuracy | 90.5 |" in card.text


@pytest.mark.parametrize(
    "odd", ["no", "null", "1.0", "a: b", "# x", "- x", "'", '"', "{x", "café \U0001f600", "@x", "2026-01-01"]
)
def test_odd_names_stay_what_they_are(odd: str) -> None:
    card = ModelCard(model_card(CFG.replace(architecture=odd, dataset=odd, license=odd), odd, {odd: 1.0}))
    assert card.data.tags is not None
    assert card.data.tags[-1] == odd
    assert card.data.model_name == odd
    result = (card.data.eval_results or [])[0]
    assert (result.dataset_name, result.metric_name) == (odd, odd)
    assert isinstance(result.dataset_type, str)
    assert card.data.license == "other"


def test_a_cfg_that_says_nothing_still_has_a_card() -> None:
    card = ModelCard(model_card(VideoCfg()))
    assert card.data.license == "unknown"
    assert "More Information Needed" not in card.text
