"""What each method of unlearning needs and what it would ignore, by the keys of a recipe."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from trainers.config import UnlearnOptions

TEMPLATED = ("idk_dpo", "flat")
WITHOUT_RETAIN = ("ga", "flat")
READS = {
    "beta": ("npo", "simnpo", "idk_dpo"),
    "simnpo_gamma": ("simnpo",),
    "flat_divergence": ("flat",),
    "templates": TEMPLATED,
}
"""The methods that read a key which others would ignore."""
OF_RETAIN = ("alpha", "retain_loss_type", "kl_direction")


def needs(options: UnlearnOptions, *, retain: bool, templates: bool) -> Iterator[tuple[str, str]]:
    """Keys that are missing, and why."""
    if options.method == "graddiff" and not retain:
        yield "retain", "graddiff is ga with a retain term: give `retain:`, or write `method: ga`"
    if options.method in TEMPLATED and not templates:
        yield (
            "templates",
            f"{options.method} needs answers to give instead: rows of `text`, under `templates:`",
        )


def ignored(options: UnlearnOptions, given: Collection[str]) -> Iterator[tuple[str, str]]:
    """Keys that are written and would have no effect."""
    method = options.method
    if "retain" in given and method in WITHOUT_RETAIN:
        hint = "write `method: graddiff`" if method == "ga" else "leave it out, or give it as `probe:`"
        yield "retain", f"{method} has no retain term: {hint}"
    for key, readers in READS.items():
        if key in given and method not in readers:
            yield key, f"{method} does not read {key}; {', '.join(readers)} does"
    for key in OF_RETAIN:
        if key in given and "retain" not in given:
            yield key, f"{key} belongs to a retain term, and there is no `retain:`"
    if "kl_direction" in given and "retain" in given and options.retain_loss_type != "kl":
        yield "kl_direction", "there is no KL to direct: write `retain_loss_type: kl` too, or leave it out"


def advice(options: UnlearnOptions, given: Collection[str]) -> Iterator[tuple[str, str]]:
    """What is allowed and seldom meant."""
    if "retain" not in given and options.method in ("npo", "simnpo", "idk_dpo"):
        yield "method", f"without `retain:` nothing holds what {options.method} should leave alone"
    if options.watch and not {"retain", "probe"} & set(given):
        message = "without `probe:` or `retain:` no utility is watched, only whether answers begin to repeat"
        yield "watch", message
