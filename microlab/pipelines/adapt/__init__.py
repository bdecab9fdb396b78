"""The labour-free pipeline on a user's own unlabelled images.

    images -> grain scale -> simulated library -> style -> pairs -> U-Net -> realism, grains, uncertainty

No label enters anywhere. `microlab adapt` on the command line is `microlab.pipelines.adapt.stages.adapt`.
"""
