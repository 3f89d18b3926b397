"""The pipeline classes that can be run, one small module each that says only what differs between them."""

from thinwire.runtime.errors import BadInputError
from thinwire.runtime.families import flux, stable_diffusion_3
from thinwire.runtime.families.family import Family

_FAMILIES: dict[str, Family] = {family.pipeline_class: family for family in (stable_diffusion_3.FAMILY, flux.FAMILY)}


def family_of(pipeline_class: str) -> Family:
    """Return the family of a class name of diffusers; raises BadInputError for one that is not supported."""
    family = _FAMILIES.get(pipeline_class)
    if family is None:
        raise BadInputError(
            f"model.pipeline: expected one of {', '.join(sorted(_FAMILIES))}, got {pipeline_class!r}: "
            "use a model of a supported class"
        )
    return family
