"""The labour-free pipeline on a user's own unlabelled images (chapter 07).

    images -> grain scale -> simulated library -> style -> pairs -> U-Net -> realism, grains, uncertainty

No label enters anywhere. `microlab adapt` on the command line is :func:`microlab.adapt.stages.adapt`.
"""

from microlab.adapt.settings import DEFAULT_STYLE, STYLES, AdaptSettings, profile_settings
from microlab.adapt.stages import AdaptResult, adapt

__all__ = ["DEFAULT_STYLE", "STYLES", "AdaptResult", "AdaptSettings", "adapt", "profile_settings"]
