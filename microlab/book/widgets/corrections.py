"""Grains corrected by hand in JupyterLab. Needs anywidget: ``pip install 'microlab[lab]'``."""

from __future__ import annotations

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from microlab.data.edits import Edit, Edits, labels_sha256
from microlab.pipelines import corrections


class CorrectionWidget(anywidget.AnyWidget):
    """The correction of the report's page, whose labels Python reads.

    Parameters
    ----------
    labels : (H, W) int
        0 on boundaries or nowhere, grains above 0. They are not changed.
    image : (H, W) or (H, W, 3) float in [0, 1]
        The micrograph.
    pixel_size : float, optional
        Micrometres.

    Attributes
    ----------
    edits : list of dict
        ``do`` and ``at`` of every edit (`microlab.data.edits.Edit`), from the browser. Set it to make others.
    labels : (H, W) int32
        The corrected labels.

    Raises
    ------
    ValueError
        If image and labels differ in size, or are too large for a page.

    Examples
    --------
    >>> widget = CorrectionWidget(labels, image)
    >>> widget.edits = [{"do": "merge", "at": [[10, 20], [10, 40]]}]
    >>> corrected = widget.labels
    """

    _esm = corrections.script()

    data = traitlets.Dict().tag(sync=True)
    edits = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(
        self, labels: NDArray[np.integer], image: NDArray[np.floating], pixel_size: float | None = None
    ) -> None:
        labels, image = np.asarray(labels), np.asarray(image)
        if labels.shape != image.shape[:2]:
            raise ValueError(f"labels {labels.shape} and image {image.shape} differ in size")
        data = corrections.page_data(labels, image, pixel_size)
        if data is None:
            raise ValueError(
                f"labels {labels.shape} have more than {corrections.MOST_PIXELS} pixels; cut the image"
            )
        self._before = labels.astype(np.int32)
        super().__init__(data=data)

    @property
    def record(self) -> Edits:
        """The edits with the image they belong to, as `microlab.data.edits.write_edits` takes them."""
        edits = tuple(Edit(edit["do"], tuple((int(y), int(x)) for y, x in edit["at"])) for edit in self.edits)
        return Edits(labels_sha256(self._before), self._before.shape, edits)

    @property
    def labels(self) -> NDArray[np.int32]:
        return self.record.apply(self._before)
