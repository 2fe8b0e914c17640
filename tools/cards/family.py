"""The card of a family: every name that one module of ``vidzoo.models`` registers."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass

import vidzoo
from cards.costs import costs_section
from cards.feeding import feeding_section
from cards.figures import figures_section
from cards.latency import LATENCY, Latency
from cards.origin import front_matter, origin_section
from cards.usage import limits_section, usage_section
from vidzoo.hub.citations import bibtex
from vidzoo.pretrained import VideoCfg

__all__ = ["Family", "families", "family_card"]


@dataclass(frozen=True)
class Family:
    """The names of a module and what is known of each."""

    name: str
    about: str
    """The docstring of the module: ``Title: a sentence.`` and paragraphs."""
    cfgs: dict[str, tuple[VideoCfg, ...]]
    """By name, in natural order; the first cfg is the default."""

    @property
    def all_cfgs(self) -> list[VideoCfg]:
        return [cfg for cfgs in self.cfgs.values() for cfg in cfgs]


def families() -> dict[str, Family]:
    """Every module that registers names, by the last part of its own."""
    found = {}
    for module in vidzoo.list_modules():
        # A grafted network is whatever its backbone and plan are: each one gets the card of its own weights.
        if not module.startswith("vidzoo.models.") or module == "vidzoo.models.grafted":
            continue
        name = module.rpartition(".")[2]
        cfgs = {arch: tuple(vidzoo.get_arch_pretrained_cfgs(arch).values()) for arch in vidzoo.list_models(module=name)}
        found[name] = Family(name, importlib.import_module(module).__doc__ or "", cfgs)
    return found


def family_card(family: Family, latency: Latency = LATENCY) -> str:
    """Markdown with the YAML front matter that the Hub reads.

    Raises:
        ValueError: none of the family's papers is known to ``vidzoo.hub.citations``.
    """
    title, _, first = _markdown(family.about).partition(": ")
    papers = " ".join([family.about, *sorted({cfg.paper for cfg in family.all_cfgs})])
    entries = bibtex(papers)
    if not entries:
        raise ValueError(f"{family.name} names no paper that vidzoo.hub.citations knows: add it there")
    sections = [
        front_matter(family.name, family.all_cfgs),
        f"# {title}",
        first[:1].upper() + first[1:],
        "## Sizes and costs\n\n" + costs_section(family.cfgs, latency),
        "## Weights and their origin\n\n" + origin_section(family.cfgs),
        "## Figures of the papers\n\n" + figures_section(list(family.cfgs), family.name),
        "## How clips are fed\n\n" + feeding_section(family.all_cfgs),
        "## Use\n\n" + usage_section(family.all_cfgs),
        "## Limits\n\n" + limits_section(family.all_cfgs),
        f"## Citation\n\n```bibtex\n{entries}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _markdown(docstring: str) -> str:
    """Paragraphs on a line each; reStructuredText's literals and roles as Markdown's code."""
    plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring.strip()).replace("``", "`")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", plain))
