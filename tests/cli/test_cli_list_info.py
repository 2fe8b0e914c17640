from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import vidzoo

Command = Callable[..., object]


def test_list_prints_every_model_once(vidzoo_command: Command) -> None:
    assert vidzoo_command("list").out.split() == vidzoo.list_models()


def test_a_word_filters_by_part_and_a_pattern_as_a_whole(vidzoo_command: Command) -> None:
    assert vidzoo_command("list", "r18_alpha").out.split() == vidzoo.list_models("*r18_alpha*")
    assert vidzoo_command("list", "gst_r?8").out.split() == ["gst_r18"]


def test_list_by_family_and_as_json(vidzoo_command: Command) -> None:
    outcome = vidzoo_command("list", "--module", "c2d", "--json")
    assert json.loads(outcome.out) == ["c2d_r18", "c2d_r34", "c2d_r50", "c2d_r101"]


def test_pretrained_lists_names_with_tags(vidzoo_command: Command) -> None:
    outcome = vidzoo_command("list", "--pretrained", "--json")
    assert json.loads(outcome.out) == vidzoo.list_pretrained()


def test_nothing_found_exits_with_1_and_a_hint(vidzoo_command: Command) -> None:
    outcome = vidzoo_command("list", "gst_r19")
    assert outcome.code == 1
    assert outcome.out == ""
    assert "did you mean 'gst_r18'" in outcome.sentence
    family = vidzoo_command("list", "--module", "gtx")
    assert family.code == 1
    assert "there is no family 'gtx'" in family.sentence


def test_info_tells_cost_input_stages_and_options(vidzoo_command: Command) -> None:
    outcome = vidzoo_command("info", "gst_r50", "--json")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert found["family"] == "gst"
    assert found["cost"]["macs"] == 28998070272 + 2048 * (400 - 174)
    assert found["cost"]["input_size"] == [3, 8, 224, 224]
    assert [stage["num_chs"] for stage in found["stages"]] == [64, 256, 512, 1024, 2048]
    assert found["input"]["crop_size"] == [224, 224]


def test_info_tells_the_defaults_that_really_hold(vidzoo_command: Command) -> None:
    options = {
        option["name"]: option for option in json.loads(vidzoo_command("info", "gst_r18", "--json").out)["options"]
    }
    assert options["alpha"] == {"name": "alpha", "type": "float", "default": 0.25}
    # The backbone's own default is 0, the entrypoint's is another one.
    built = vidzoo.create_model("gst_r18")
    assert options["drop_rate"]["default"] == built.dropout.p == 0.3
    assert options["num_classes"]["default"] == 400


@pytest.mark.parametrize("name", ["gst_r34", "c2d_r18"])
def test_info_is_readable(name: str, vidzoo_command: Command) -> None:
    out = vidzoo_command("info", name).out
    for words in ("parameters", "MACs", "8 x 224 x 224", "layer4", "drop_path_rate", "segment"):
        assert words in out
    assert max(len(line) for line in out.splitlines()) < 200


def test_info_describes_a_model_folder(vidzoo_command: Command, model_folder: Path) -> None:
    found = json.loads(vidzoo_command("info", model_folder, "--json").out)
    assert found["architecture"] == "c2d_r18"
    assert found["built_with"]["num_classes"] == 2
    assert found["weights"][0]["class_names"] == ["brighter", "darker"]
    assert found["weights"][0]["available"] is True
    assert found["cost"]["input_size"] == [3, 3, 32, 32]
    assert "brighter, darker" in vidzoo_command("info", f"local-dir:{model_folder}").out


def test_info_of_nothing_is_one_sentence(vidzoo_command: Command, tmp_path: Path) -> None:
    assert "did you mean" in vidzoo_command("info", "gst_r19").sentence
    assert "config.json" in vidzoo_command("info", tmp_path).sentence
    assert vidzoo_command("info", tmp_path).code == 1
