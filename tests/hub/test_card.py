"""The card says what is known, in a form that the Hub's own parser reads back."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from hub import tiny
from vidzoo.hub.card import model_card
from vidzoo.pretrained import VideoCfg

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


def test_an_initialisation_is_not_sold_as_a_classifier() -> None:
    text = model_card(CFG.replace(is_classifier=False))
    assert "its head has not learnt to name actions" in text
    assert "must be trained on a task" in text


def test_a_cfg_that_says_nothing_still_has_a_card() -> None:
    card = ModelCard(model_card(VideoCfg()))
    assert card.data.license == "unknown"
    assert "More Information Needed" not in card.text
