"""The labour-free pipeline on a user's own unlabelled images (chapter 07).

    images -> grain scale -> simulated library -> style -> pairs -> U-Net -> realism, grains, uncertainty

No label enters anywhere. `microlab adapt` on the command line is `microlab.pipelines.adapt.stages.adapt`.
"""
