"""Every format of annotation files, by its name."""

from smaug_core.data.sources import singularity
from smaug_core.data.sources.annotation import AnnotationFormat

FORMATS: dict[str, AnnotationFormat] = {"singularity": singularity}
