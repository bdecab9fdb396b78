"""The six public data sets: what they hold, whom to thank for them, and what one may do with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """What a data set holds, whom to thank for it, and what one may do with it."""

    name: str
    title: str
    licence: str
    url: str
    citation: str
    mask: str  # what `Sample.mask` means
    splits: tuple[str, ...] = ()  # names that `load` accepts; None means all of them
    classes: tuple[str, ...] = ()  # names of the class ids 0, 1, ...
    pixel_size: float | None = None  # micrometres per pixel


DATASETS: dict[str, DataSet] = {
    dataset.name: dataset
    for dataset in (
        DataSet(
            name="perovskite",
            title="Halide perovskite film, SEM, 1 field of 1070 x 1068 pixels, about 216 grains",
            licence="MIT",
            url="https://github.com/yamanmy/grain_boundary.github.io",
            citation="yamanmy, grain_boundary: grain boundaries in images of perovskite thin films, GitHub.",
            mask="boundary, drawn by an expert as lines 3 to 7 px wide",
            splits=("style", "test"),
        ),
        DataSet(
            name="steel",
            title="Etched steel, optical, 1 field of 600 x 800 pixels",
            licence="NIST software notice: free use with acknowledgement",
            url="https://github.com/usnistgov/grain-size-analysis-tools",
            citation="N. Moser, Grain Size Library, National Institute of Standards and Technology, GitHub.",
            mask="boundary, segmented from lines highlighted by hand",
            splits=("test",),
            pixel_size=0.2252,  # 222 px are 50 um, says the readme beside the micrograph
        ),
        DataSet(
            name="uhcs",
            title="Ultrahigh carbon steel, SEM, 24 fields of 484 x 645 pixels",
            licence="MIT (repository)",
            url="https://github.com/lei-bo/MatSeg",
            citation="B. L. DeCost, B. Lei, T. Francis, E. A. Holm, High throughput quantitative "
            "metallography for complex microstructures using deep learning: a case study in ultrahigh "
            "carbon steel, Microscopy and Microanalysis 25 (2019) 21-29, doi:10.1017/S1431927618015635.",
            mask="class",
            splits=("train", "val", "test"),
            classes=("ferritic matrix", "network carbide", "spheroidite", "Widmanstätten cementite"),
        ),
        DataSet(
            name="superalloy",
            title="Nickel superalloy, SEM, 18 fields of 512 x 512 pixels",
            licence="MIT",
            url="https://github.com/nasa/pretrained-microscopy-models",
            citation="J. Stuckner, B. Harder, T. M. Smith, Microstructure segmentation with deep learning "
            "encoders pre-trained on a large microscopy dataset, npj Computational Materials 8 (2022) 200, "
            "doi:10.1038/s41524-022-00878-5.",
            mask="class",
            splits=("train", "val", "test"),
            classes=("matrix", "secondary gamma prime", "tertiary gamma prime"),
        ),
        DataSet(
            name="interconnect",
            title="Metal interconnect, TEM, 1 strip of 154 x 1166 pixels",
            licence="CC0",
            url="https://github.com/A-S-Saleh/Concept-Oriented-Synthetic-Data-for-Crystal-Grain-Analysis",
            citation="A. S. Saleh, K. Croes, H. Ceric, I. De Wolf, H. Zahedmanesh, Novel concept-oriented "
            "synthetic data approach for training generative AI-driven crystal grain analysis using "
            "diffusion model, arXiv:2504.14782 (2025).",
            mask="none",
        ),
        DataSet(
            name="membrane",
            title="Fly larva nerve cord, TEM, 30 sections of 512 x 512 pixels (ISBI 2012)",
            licence="MIT (mirror of the ISBI 2012 challenge)",
            url="https://github.com/zhixuhao/unet",
            citation="I. Arganda-Carreras et al., Crowdsourcing the creation of image segmentation "
            "algorithms for connectomics, Frontiers in Neuroanatomy 9 (2015) 142, "
            "doi:10.3389/fnana.2015.00142.",
            mask="boundary, the cell membranes",
            splits=("test",),
            pixel_size=0.004,  # 4 x 4 x 50 nm voxels, says the challenge
        ),
    )
}
