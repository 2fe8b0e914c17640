"""Names, tags, filters, duplicates, deprecations and options."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

import vidzoo
from vidzoo import registry
from vidzoo.errors import ConfigError, UnknownModelError, UnknownOptionError, UnknownTagError
from vidzoo.pretrained import VideoCfg


@pytest.fixture
def scratch_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry that forgets what the test put in."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_deprecated", dict(registry._deprecated))
    return


@pytest.fixture
def toy(scratch_registry: None) -> None:
    @vidzoo.register_model(
        cfgs={
            "": VideoCfg(num_classes=5),
            "bare": VideoCfg(num_classes=5),
            "first": VideoCfg(num_classes=3, file="toy.safetensors"),
            "second.v2": VideoCfg(num_classes=4, hf_hub_id="org/toy"),
        }
    )
    def toy_r18(*, width: int = 4, num_classes: int = 400) -> nn.Module:
        return nn.Linear(width, num_classes)

    @vidzoo.register_model()
    def toy_r101(*, num_classes: int = 400) -> nn.Module:
        return nn.Linear(4, num_classes)


def test_every_family_is_listed_on_every_backbone() -> None:
    names = set(vidzoo.list_models())
    for family in ("c2d", "c3d", "c3d_g2", "p3d", "gst", "gst_large"):
        assert {f"{family}_r{depth}" for depth in (18, 34, 50, 101)} <= names


def test_names_come_in_natural_order() -> None:
    assert vidzoo.list_models("c2d_r*") == ["c2d_r18", "c2d_r34", "c2d_r50", "c2d_r101"]


def test_several_filters_are_joined_and_exclusions_come_last() -> None:
    assert vidzoo.list_models(["c2d_r18", "p3d_r18", "p3d_r50"], exclude_filters="*_r50") == ["c2d_r18", "p3d_r18"]
    assert vidzoo.list_models("no_such*") == []


def test_the_module_filter_takes_the_full_name_or_its_last_part() -> None:
    assert vidzoo.list_models(module="p3d") == vidzoo.list_models(module="vidzoo.models.p3d")
    assert all(name.startswith("p3d") for name in vidzoo.list_models(module="p3d"))
    assert vidzoo.list_models(module="elsewhere.p3d") == []
    assert "vidzoo.models.gst" in vidzoo.list_modules()


def test_listing_what_is_pretrained_gives_names_with_tags(toy: None) -> None:
    assert vidzoo.list_pretrained("toy_*") == ["toy_r18.first", "toy_r18.second.v2"]
    assert vidzoo.list_models("toy_*", pretrained=True) == ["toy_r18.first", "toy_r18.second.v2"]
    assert vidzoo.list_models("toy_*", pretrained=True, include_tags=False) == ["toy_r18"]
    assert vidzoo.list_models("toy_*", include_tags=True) == [
        "toy_r18",
        "toy_r18.bare",
        "toy_r18.first",
        "toy_r18.second.v2",
        "toy_r101",
    ]
    assert vidzoo.list_models("toy_r18.sec*", include_tags=True) == ["toy_r18.second.v2"]


def test_a_tag_must_exist_for_a_name_to_be_a_model(toy: None) -> None:
    assert vidzoo.is_model("toy_r18")
    assert vidzoo.is_model("toy_r18.first")
    assert not vidzoo.is_model("toy_r18.nope")
    assert not vidzoo.is_model("nope")
    assert vidzoo.is_model_pretrained("toy_r18")
    assert vidzoo.is_model_pretrained("toy_r18.second.v2")
    assert not vidzoo.is_model_pretrained("toy_r18.bare")
    assert not vidzoo.is_model_pretrained("toy_r101")
    assert not vidzoo.is_model_pretrained("nope")


def test_a_name_is_split_at_its_first_dot() -> None:
    assert vidzoo.split_model_name_tag("gst_r18") == ("gst_r18", "")
    assert vidzoo.split_model_name_tag("gst_r18.a.b") == ("gst_r18", "a.b")
    assert vidzoo.split_model_name_tag("gst_r18", no_tag="x") == ("gst_r18", "x")


def test_the_cfg_knows_its_own_name(toy: None) -> None:
    assert vidzoo.get_pretrained_cfg("toy_r18.second.v2").name == "toy_r18.second.v2"
    assert vidzoo.get_pretrained_cfg("toy_r18").name == "toy_r18"
    assert vidzoo.get_pretrained_cfg("toy_r18", with_weights=True).tag == "first"
    assert list(vidzoo.get_arch_pretrained_cfgs("toy_r18.first")) == ["", "bare", "first", "second.v2"]


def test_an_unknown_name_or_tag_is_answered_with_the_nearest(toy: None) -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'gst_r17': did you mean 'gst_r18'"):
        vidzoo.model_entrypoint("gst_r17")
    with pytest.raises(UnknownTagError, match=r"'toy_r18' has no weights tagged 'frist': did you mean 'first'"):
        vidzoo.get_pretrained_cfg("toy_r18.frist")
    with pytest.raises(UnknownModelError):
        vidzoo.get_arch_pretrained_cfgs("nothing")


def test_registering_a_name_twice_raises_and_names_the_owner(toy: None) -> None:
    with pytest.raises(ConfigError, match=r"'toy_r18' is already taken by tests|'toy_r18' is already taken by"):

        @vidzoo.register_model()
        def toy_r18(*, num_classes: int = 1) -> nn.Module:
            return nn.Identity()


def test_an_entrypoint_with_positional_options_is_refused(scratch_registry: None) -> None:
    with pytest.raises(ConfigError, match="keyword-only"):

        @vidzoo.register_model()
        def positional(num_classes: int = 1) -> nn.Module:
            return nn.Identity()


def test_a_deprecated_name_works_with_a_warning_and_is_not_listed(toy: None) -> None:
    vidzoo.register_deprecation("toy_old", "toy_r18.first")
    vidzoo.register_deprecation("toy_gone", None)
    with pytest.warns(FutureWarning, match=r"'toy_old' is deprecated, use 'toy_r18.first'"):
        assert registry.resolve_deprecated("toy_old") == "toy_r18.first"
    with pytest.warns(FutureWarning):
        assert registry.resolve_deprecated("toy_old.bare") == "toy_r18.bare"
    with pytest.raises(UnknownModelError, match="no replacement"):
        registry.resolve_deprecated("toy_gone")
    assert vidzoo.list_models("toy_*") == ["toy_r18", "toy_r101"]
    with pytest.raises(ConfigError):
        vidzoo.register_deprecation("toy_r18", None)
    with pytest.raises(UnknownModelError):
        vidzoo.register_deprecation("toy_older", "nothing_like_it")


def test_a_deprecated_name_can_be_created(toy: None) -> None:
    vidzoo.register_deprecation("grouped_r18", "gst_r18")
    with pytest.warns(FutureWarning):
        assert vidzoo.create_model("grouped_r18", num_classes=2).num_classes == 2


def test_the_options_of_a_model_are_known_with_their_types() -> None:
    options = vidzoo.model_options("gst_r18")
    assert options["alpha"] is float
    assert {"num_classes", "in_chans", "num_frames", "drop_rate", "drop_path_rate"} <= set(options)
    assert "alpha" not in vidzoo.model_options("c2d_r18")


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match=r"'gst_r18' has no option 'alhpa': did you mean 'alpha'"):
        vidzoo.create_model("gst_r18", alhpa=0.5)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("i3d_r18", {"t_lengths": 3}),
        ("i3d_r18", {"t_lengths": "33333"}),
        ("i3d_r18", {"t_lengths": (3, 3, 3, 3, "3")}),
        ("i3d_r18", {"eta": True}),
        ("i3d_r18", {"single": 1}),
        ("gst_r18", {"alpha": "x"}),
        ("gst_r18", {"drop_rate": "0.5"}),
        ("gst_r18", {"num_classes": "4"}),
        ("ctm_r18", {"stage": ["res4"]}),
        ("ctm_r18", {"img_size": (64, 64, 64)}),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_option(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        vidzoo.registry.check_options(name, wrong)


def test_lists_stand_for_tuples_and_whole_numbers_for_fractions() -> None:
    vidzoo.registry.check_options("i3d_r18", {"t_lengths": [1, 1, 3, 3, 5], "eta": 2, "drop_rate": 0})
    vidzoo.registry.check_options("ctm_r18", {"img_size": [64, 96]})
