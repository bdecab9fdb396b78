"""Networks of the translation between simulation and micrograph.

    generator:      7x7 convolution, two strided ones, residual blocks, two upsamplings, 7x7 convolution, tanh
    discriminator:  strided 4x4 convolutions to a map of scores, one score for each patch of 70 x 70 pixels

Both follow Zhu et al., ICCV 2017 (doi:10.1109/ICCV.2017.244), the CycleGAN that paper A uses, with two
changes. The image is upsampled by nearest neighbour and then convolved: transposed convolutions leave
checkerboards. And the generator may get a channel of noise: a simulated grain is flat, and no function makes
texture of a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlab.data import weights

DOWNSAMPLING = 4  # pixels along each side that become one in the middle of the generator


class Generator(nn.Module):
    """Residual network from one image domain to another.

    Instance normalisation takes the statistics of the whole image, so an image must be translated in one
    piece: tiles would be normalised one by one and meet in seams.

    Parameters
    ----------
    in_channels, out_channels : int >= 1
    width : int >= 1
        Channels of the first level; the middle has four times as many. The paper's network has 64.
    blocks : int >= 0
        Residual blocks in the middle; the paper's network has 9.
    noise : float >= 0
        Standard deviation of the noise channel; 0 leaves the channel out.
    seed : int
        Seed of the initial weights, normal with standard deviation 0.02.

    Raises
    ------
    ValueError
        If a size is too small or `noise` is negative.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        blocks: int = 9,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "width": width}
        for name, value in {**sizes, "blocks + 1": blocks + 1}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not noise >= 0:
            raise ValueError(f"noise must be 0 or more, got {noise}")
        # What a card needs to build the same network again (microlab.data.weights).
        self.architecture = {**sizes, "blocks": blocks, "noise": noise}
        self.noise = noise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encode = nn.ModuleList(
                [
                    _convolution(in_channels + (noise > 0), width, 7),
                    _convolution(width, 2 * width, 3, stride=2),
                    _convolution(2 * width, 4 * width, 3, stride=2),
                    *(Residual(4 * width) for _ in range(blocks)),
                ]
            )
            self.decode = nn.Sequential(
                nn.Upsample(scale_factor=2),
                _convolution(4 * width, 2 * width, 3),
                nn.Upsample(scale_factor=2),
                _convolution(2 * width, width, 3),
                nn.ReflectionPad2d(3),
                nn.Conv2d(width, out_channels, 7),
            )
            initialise(self)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Translate images.

        Parameters
        ----------
        image : (N, in_channels, H, W) float in [-1, 1]
            Any H, W >= 8.
        noise : (N, 1, H, W) float, optional
            Standard normal numbers; drawn from torch's global generator by default.

        Returns
        -------
        (N, out_channels, H, W) float in [-1, 1]
        """
        height, width = image.shape[-2:]
        x = self._with_noise(image, noise)
        x = F.pad(x, (0, -width % DOWNSAMPLING, 0, -height % DOWNSAMPLING), mode="reflect")
        for layer in self.encode:
            x = layer(x)
        return torch.tanh(self.decode(x).float())[..., :height, :width]

    def features(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Outputs of some encoding layers, without noise: what CUT compares before and after translation."""
        x = self._with_noise(image, torch.zeros_like(image[:, :1]))
        outputs = []
        for index, layer in enumerate(self.encode[: max(layers) + 1]):
            x = layer(x)
            if index in layers:
                outputs.append(x)
        return outputs

    def _with_noise(self, image: Tensor, noise: Tensor | None) -> Tensor:
        if not self.noise:
            return image
        if noise is None:
            noise = torch.randn_like(image[:, :1])
        return torch.cat([image, self.noise * noise], dim=1)

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> Generator:
        """A trained generator by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


class Residual(nn.Module):
    """x + convolution(ReLU(convolution(x))), both normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3)
        self.second = _convolution(channels, channels, 3)[:-1]  # no ReLU before the sum

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Discriminator(nn.Module):
    """PatchGAN: scores patches, not images, so it sees texture and not the arrangement of grains.

    Parameters
    ----------
    channels : int >= 1
    width : int >= 1
        Channels of the first layer; 64 in the paper's network.
    layers : int >= 1
        Strided convolutions. With 3 a score sees 70 x 70 pixels, with 2 it sees 34 x 34.
    seed : int
    """

    def __init__(self, channels: int = 1, width: int = 64, layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blocks: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
            for level in range(1, layers + 1):
                blocks += [
                    nn.Conv2d(widths[level - 1], widths[level], 4, 2 if level < layers else 1, 1),
                    nn.InstanceNorm2d(widths[level]),
                    nn.LeakyReLU(0.2, inplace=True),
                ]
            self.score = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, 1, 1))
            initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """(N, channels, H, W) in [-1, 1] to (N, 1, h, w): near 1 for real patches, near 0 for fake ones."""
        return self.score(image).float()


class ImagePool(nn.Module):
    """Translations of earlier steps, shown to a discriminator again so that it does not forget them.

    With probability 1/2 an image of the pool is shown and replaced by the new one (Shrivastava et al., CVPR
    2017). The pool is part of the state, so a resumed run shows the same images.

    Parameters
    ----------
    size : int >= 0
        Images kept; 0 shows every new image.
    shape : (C, H, W)
    """

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def exchange(self, fake: Tensor) -> Tensor:
        """Images for the discriminator, (N, C, H, W), given new translations of that shape."""
        size, shown = len(self.images), []
        for image in fake.detach():
            if int(self.filled) < size:
                self.images[self.filled] = image
                self.filled += 1
                shown.append(image)
            elif size and torch.rand(()) < 0.5:
                place = int(torch.randint(size, ()))
                shown.append(self.images[place].to(image.dtype).clone())
                self.images[place] = image
            else:
                shown.append(image)
        return torch.stack(shown)


def _convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(kernel // 2),
        # Instance normalisation subtracts the mean, so a bias would have no effect.
        nn.Conv2d(before, after, kernel, stride, bias=False),
        nn.InstanceNorm2d(after),
        nn.ReLU(inplace=True),
    )


def initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
