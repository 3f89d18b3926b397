"""The pipeline classes that can be run, one small module each that says only what differs between them."""

from thinwire.runtime.errors import BadInputError
from thinwire.runtime.families import cogvideox, flux, hunyuan_dit, hunyuan_video, pixart, stable_diffusion_3, wan
from thinwire.runtime.families.family import Family

FAMILIES: tuple[Family, ...] = (
    stable_diffusion_3.FAMILY,
    flux.FAMILY,
    pixart.ALPHA,
    pixart.SIGMA,
    hunyuan_dit.FAMILY,
    cogvideox.FAMILY,
    wan.FAMILY,
    hunyuan_video.FAMILY,
)


def family_of(pipeline_class: str) -> Family:
    """Return the family of a class name of diffusers; raises BadInputError for one that is not supported."""
    for family in FAMILIES:
        if family.pipeline_class == pipeline_class:
            return family
    supported = ", ".join(sorted(family.pipeline_class for family in FAMILIES))
    raise BadInputError(
        f"model.pipeline: expected one of {supported}, got {pipeline_class!r}: use a model of a supported class"
    )
