"""U-Nets whose contracting path is a known classifier, from segmentation_models_pytorch (chapter 12).

The package is optional. It needs torchvision, which must come from the same index as torch: the one on PyPI
fits the torch on PyPI, and does not import beside the CPU build that `make` installs on Linux.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from microlab.segment.unet import pad_reflect


class PaddedNetwork(nn.Module):
    """A network that wants sides in multiples of a number, for images of any size.

    Parameters
    ----------
    network : Module
        Maps (N, C, H, W) to (N, K, H, W).
    multiple : int
        Pixels. Images are padded by reflection, and the logits cut back.
    """

    memory_format = torch.channels_last

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, H, W) of images (N, C, H, W)."""
        height, width = image.shape[-2:]
        return self.network(pad_reflect(image, self.multiple))[..., :height, :width]


def encoder_unet(encoder: str, encoder_weights: str | None, classes: int, *, seed: int = 0) -> PaddedNetwork:
    """An untrained U-Net around an encoder, for grey images.

    The first layer takes one channel. With pretrained weights, segmentation_models_pytorch sums that layer
    over the three colours, which equals feeding the grey image three times as paper B does.

    Parameters
    ----------
    encoder : str
        For example 'efficientnet-b3', the paper's.
    encoder_weights : str, optional
        'imagenet' downloads pretrained weights (safetensors); None starts from random ones.
    classes : int
    seed : int
        Of the random weights.

    Raises
    ------
    ValueError
        If segmentation_models_pytorch cannot be imported, does not know the encoder or its weights, or
        cannot fetch them.
    """
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build than torch
        raise ValueError(
            f"encoder {encoder!r} needs segmentation_models_pytorch, which cannot be imported ({error}): "
            "pip install 'microlab[encoders]', with torchvision from the index that torch came from, "
            "or encoder=None for our own U-Net"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = smp.Unet(encoder, encoder_weights=encoder_weights, in_channels=1, classes=classes)
        except KeyError as error:
            raise ValueError(
                f"encoder {encoder!r}, encoder_weights {encoder_weights!r}: {error.args[0]}"
            ) from error
        except OSError as error:
            raise ValueError(
                f"encoder_weights {encoder_weights!r} of {encoder} could not be fetched ({error}): "
                "go online once, or encoder_weights=None for random ones"
            ) from error
    return PaddedNetwork(network, 32)  # five halvings
