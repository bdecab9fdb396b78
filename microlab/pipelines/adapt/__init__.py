"""Label-free segmentation of a user's own images.

    images -> zoom -> simulated library -> style -> pairs -> U-Net -> realism, grains, uncertainty

No label enters anywhere. `microlab adapt` on the command line is `microlab.pipelines.adapt.stages.adapt`.
"""
