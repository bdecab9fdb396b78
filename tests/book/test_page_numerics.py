"""The page that segments in the browser computes what the library does: the same labels, the same numbers."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from browse_site import serve
from build_page import write_scripts
from page_modules import Modules
from scipy import ndimage
from skimage import measure, morphology, segmentation
from voronoi_labels import voronoi_labels

from microlab.data.errors import ImageError
from microlab.data.mapped import reduced, reduction
from microlab.data.micrograph import Micrograph
from microlab.data.tables import write_csv
from microlab.data.transforms import resize_by, resize_to, standardise
from microlab.measure.grain_size import astm_grain_size, mean_intercept
from microlab.measure.grains import grain_table, summarise
from microlab.measure.instance import adapted_rand_error
from microlab.measure.labels import boundaries
from microlab.pipelines.image_results import MeasuredImage, length, number
from microlab.segment.choice import AutoSegmenter, Inverted
from microlab.segment.evidence import look
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.segmenter import Segmenter, checked_image
from microlab.segment.uncertainty import view, view_back
from microlab.segment.unet import field_of_view
from microlab.segment.zoom import ZoomTrial, matching_zoom, middle, most_confident, zoom_trials

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def js(browser, tmp_path_factory):
    """The page's modules, in Chromium."""
    folder = tmp_path_factory.mktemp("try")
    write_scripts(folder)
    (folder / "index.html").write_text("<!doctype html><title>modules</title>")
    with serve(folder) as address:
        page = browser.new_page()
        page.goto(address)
        yield Modules(page, address, ["arrays", "watershed", "choice", "measure", "text"])
        page.close()


def probability_map(shape: tuple[int, int], kind: str, seed: int = 0) -> np.ndarray:
    """Boundary probability as networks give it: soft lines around polygons, with noise, gaps, plateaus."""
    rng = np.random.default_rng(seed)
    lines = boundaries(voronoi_labels(shape, max(3, shape[0] * shape[1] // 700), seed=seed))
    soft = ndimage.gaussian_filter(lines.astype(np.float32), 1.0) * 1.6
    soft *= ndimage.gaussian_filter(rng.random(shape, np.float32), 6) > 0.48  # gaps
    noisy = np.clip(soft + 0.15 * rng.standard_normal(shape, np.float32), 0, 1).astype(np.float32)
    return {
        "soft": np.clip(soft, 0, 1).astype(np.float32),  # exact zeros and ones
        "noisy": noisy,
        "float16": noisy.astype(np.float16).astype(np.float32),  # plateaus
        "steps": np.round(noisy * 8) / np.float32(8),
        "noise": rng.random(shape, np.float32),
        "one grain": np.full(shape, 0.125, np.float32),
        "all boundary": np.full(shape, 0.75, np.float32),
    }[kind]


KINDS = ("soft", "noisy", "float16", "steps", "noise", "one grain", "all boundary")


def field(shape: tuple[int, int]) -> np.ndarray:
    """A round field of view with a legend in it, and a corner of its own."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    valid = np.hypot(y - shape[0] / 2, x - shape[1] / 2) < 0.48 * max(shape)
    valid[: shape[0] // 6, shape[1] // 2 :] = False
    valid[:9, -7:] = True
    return valid


@pytest.mark.parametrize("with_field", [False, True], ids=["whole", "field"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(120, 161), (33, 64), (1, 40)], ids=str)
def test_grains_and_lines_are_equal_pixel_for_pixel(js, shape, kind, with_field):
    probability = probability_map(shape, kind, seed=len(kind))
    valid = field(shape) if with_field else None
    labels = watershed_grains(probability, valid=valid)
    found = js("watershed", "watershedGrains", probability, {"valid": valid})
    np.testing.assert_array_equal(found, labels)
    lines = js("watershed", "boundaries", labels, valid)
    np.testing.assert_array_equal(lines, boundaries(labels, valid))
    closed = js("watershed", "closedBoundary", probability, labels, {"valid": valid})
    np.testing.assert_array_equal(closed, closed_boundary(probability, labels, valid=valid))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.3, "min_area": 200},
        {"threshold": 0.7, "faint": 0.6, "open_share": 0.2},
        {"neck": 0.3, "smooth": 0, "min_area": 1},
        {"neck": 3.0, "smooth": 2.5, "open_share": 0.0},
        {"neck": 0.3, "min_area": 90},  # small basins beside seeds of equal probability
    ],
    ids=str,
)
def test_grains_are_equal_with_other_options(js, options):
    for kind in ("noisy", "steps", "noise", "float16"):
        probability = probability_map((90, 77), kind, seed=1)
        found = js("watershed", "watershedGrains", probability, options)
        np.testing.assert_array_equal(found, watershed_grains(probability, **options))


@pytest.mark.parametrize("neck", [1.0, 50.0])
def test_drawn_regions_of_about_the_least_area_are_equal(js, neck):
    """Areas of 29 to 31 px; too shallow for a basin with a neck of 50 px. No grain in an empty field."""
    probability = np.full((40, 33), 0.875, np.float32)
    probability[2:4, 2:17] = probability[10:39, 3] = probability[10:15, 10:16] = probability[20:39, 20:30] = (
        0.125
    )
    probability[10, 16] = 0.125
    for options in ({"neck": neck}, {"neck": neck, "min_area": 31}, {"neck": neck, "valid": probability < 0}):
        found = js("watershed", "watershedGrains", probability, options)
        np.testing.assert_array_equal(found, watershed_grains(probability, **options))


@pytest.mark.parametrize("with_field", [False, True], ids=["whole", "field"])
def test_equal_seeds_flood_in_the_order_of_skimage(js, with_field):
    rng = np.random.default_rng(2)
    steps = np.round(rng.random((80, 70), np.float32) * 4) / np.float32(4)
    seeds = np.where(rng.random(steps.shape) < 0.05, rng.integers(1, 99, steps.shape), 0).astype(np.int32)
    mask = field(steps.shape) if with_field else None
    found = js("watershed", "watershed", steps, seeds, mask)
    np.testing.assert_array_equal(found, segmentation.watershed(steps, seeds, connectivity=1, mask=mask))


ARRAYS = {  # by function of arrays.js: calls of it as (arguments, what the library gets), for a test's image
    "resizeBy": lambda grey: [([grey, z], resize_by(grey, z)) for z in (0.27, 0.5, 0.71, 1, 1.3, 2.83, 1e-3)],
    "resizeTo": lambda grey: [
        ([values, *shape], resize_to(values, shape))
        for values in (grey, (grey * 9).astype(np.int32), grey > 0.5)
        for shape in ((20, 31), (150, 40), (77, 131), grey.shape, (1, 1))
    ],
    "gaussianFilter": lambda grey: [
        ([grey, sigma], ndimage.gaussian_filter(grey, sigma)) for sigma in (0.4, 1.0, 2.5, 20.0)
    ],
    "gaussianGradientMagnitude": lambda grey: [
        ([grey, sigma], ndimage.gaussian_gradient_magnitude(grey, sigma)) for sigma in (1.0, 1.5)
    ],
    "standardise": lambda grey: [([part], standardise(part)) for part in (grey, 0 * grey)],
    "middle": lambda grey: [([grey, side], middle(grey, side)) for side in (1, 20.7, 33, 1e4)],
    "reduced": lambda grey: [([grey, factor], reduced(grey, factor)) for factor in (1, 2, 3)],
    "reduction": lambda grey: [
        ([grey, side], reduction(grey.shape, side)) for side in (10, max(grey.shape), 5000)
    ],
    "view": lambda grey: [([grey, k], view(grey, k)) for k in range(8)],
    "viewBack": lambda grey: [([grey, k], view_back(grey, k)) for k in range(8)],
    "distances": lambda grey: [([m], ndimage.distance_transform_edt(m)) for m in masks(grey) if not m.all()],
    "label": lambda grey: [
        ([mask, connectivity], measure.label(mask, connectivity=connectivity))
        for mask in masks(grey)
        for connectivity in (1, 2)
    ],
    "openingWithDisk": lambda grey: [
        ([mask, radius], ndimage.binary_opening(mask, morphology.disk(radius)))
        for mask in masks(grey)
        for radius in (1, 2, 4)
    ],
    "fillHoles": lambda grey: [([mask], ndimage.binary_fill_holes(mask)) for mask in masks(grey)],
    "reconstructByErosion": lambda grey: [
        ([grey + np.float32(h), grey], reconstructed(grey, h)) for h in (0.05, 0.3)
    ],
    "localMinima": lambda grey: [
        ([values], morphology.local_minima(values, connectivity=1))
        for values in (grey, np.round(4 * grey), 0 * grey, -ndimage.gaussian_filter(grey, 3))
    ],
}
EXACT = {"middle", "reduction", "view", "viewBack", "label", "openingWithDisk", "fillHoles", "localMinima"}


def masks(grey: np.ndarray) -> list[np.ndarray]:
    smooth = ndimage.gaussian_filter(grey, 2)
    return [grey > 0.7, grey > 0.3, smooth > np.median(smooth), smooth < 0.51, grey < 0, grey < 2]


def reconstructed(grey: np.ndarray, h: float) -> np.ndarray:
    cross = ndimage.generate_binary_structure(2, 1)
    return morphology.reconstruction(grey + np.float32(h), grey, method="erosion", footprint=cross)


@pytest.mark.parametrize("shape", [(61, 84), (40, 33), (2, 5)], ids=str)
@pytest.mark.parametrize("function", ARRAYS)
def test_array_functions_agree(js, function, shape):
    grey = np.random.default_rng(1).random(shape, np.float32)
    for arguments, expected in ARRAYS[function](grey):
        found = js("arrays", function, *arguments)
        if function in EXACT:
            np.testing.assert_array_equal(found, expected)
        else:
            assert np.shape(found) == np.shape(expected)
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-7)


def test_quantiles_agree(js):
    values = np.random.default_rng(0).random((1, 800))
    for one, q in (
        (values, 0.9),
        (values.astype(np.float32), 0.9),
        (values[:, :5], 0.3),
        (values[:, :1], 0.5),
    ):
        found = js.run("(m, values, q) => m.arrays.quantile(values.data, q)", one, q)
        assert found == pytest.approx(float(np.quantile(one, q)), rel=1e-7)


class Fake(Segmenter):
    """A network for tests: dark is boundary, and what is very bright over a wide area is no specimen.

    It blurs along rows more than along columns, so that views of an image differ.
    """

    def __init__(self, name: str, *, blur: float, sees_field: bool, calibrated: bool = True) -> None:
        self.name, self.blur, self.sees_field = name, blur, sees_field
        self.card = {} if sees_field else {"grain_size_px": 30.0}
        self.calibrated = calibrated

    def maps(self, image, zoom=1.0, *, progress=False):
        seen = ndimage.gaussian_filter(resize_by(image, zoom), (self.blur, 2 * self.blur))
        probability = resize_to(np.clip(1 - seen, 0, 1), image.shape)
        if not self.sees_field:
            return probability, None
        wide = resize_to((ndimage.gaussian_filter(seen, 6) > 1.5).astype(np.float32), image.shape)
        return probability, field_of_view(wide, zoom)

    def probability(self, image, zoom=1.0, *, progress=False):
        return self.maps(image, zoom)[0]

    def estimate_zoom(self, image):
        if not self.sees_field:
            return super().estimate_zoom(image)

        def segment(part):
            probability, valid = self.maps(part)
            return probability, self.grains(probability, valid=valid)[1], valid

        return most_confident(zoom_trials(self.check(image), segment)).zoom


FAKE = """({arrays, choice, watershed}, name, blur, seesField, calibrated) => {
  const maps = async (image, zoom) => {
    const {height, width} = image, sigma = [blur, 2 * blur];
    const seen = arrays.gaussianFilter(arrays.resizeBy(image, zoom), sigma);
    const dark = arrays.image(seen.data.map((v) => Math.min(Math.max(1 - v, 0), 1)), seen.height, seen.width);
    const probability = arrays.resizeTo(dark, height, width);
    if (!seesField) return {probability, valid: null};
    const wide = arrays.gaussianFilter(seen, 6);
    const cover = arrays.image(wide.data.map((v) => (v > 1.5 ? 1 : 0)), seen.height, seen.width);
    return {probability, valid: choice.fieldOfView(arrays.resizeTo(cover, height, width), zoom)};
  };
  const grains = (probability, zoom, valid) => {
    const labels = watershed.watershedGrains(probability, {valid});
    return {labels, boundary: watershed.closedBoundary(probability, labels, {valid})};
  };
  const part = async (image) => {
    const {probability, valid} = await maps(image, 1);
    return {probability, valid, labels: grains(probability, 1, valid).labels};
  };
  const estimateZoom = async (image) => {
    if (seesField) return choice.mostConfident(await choice.zoomTrials(image, part)).zoom;
    return choice.matchingZoom(image, async (one) => (await part(one)).labels, 30);
  };
  return {name, calibrated, maps, grains, estimateZoom};
}"""
SEGMENT = f"""async (m, image, options, unsure) => {{
  const first = ({FAKE})(m, "appearances", 0.5, true, true);
  const lines = ({FAKE})(m, "label-free", unsure ? 0.5 : 0.8, false, !unsure);
  const shares = [], progress = (share) => {{ shares.push(share); }};
  const candidates = [first, lines, m.choice.inverted(lines)];
  return {{...await m.choice.segment(image, candidates, {{...options, progress}}), shares}};
}}"""


def micrograph(kind: str) -> np.ndarray:
    """Grains of about 26 px as an image: lines of a kind, with noise."""
    rng = np.random.default_rng(3)
    shape = {"large": (100, 421), "noise": (90, 101)}.get(kind, (140, 173))
    lines = ndimage.binary_dilation(voronoi_labels(shape, shape[0] * shape[1] // 700, lines=2, seed=2) == 0)
    image = 1 - lines + 0.05 * rng.standard_normal(shape)
    if kind == "bright":
        image = 1 - 0.6 * image
    if kind == "noise":
        image = rng.random(shape)
    if kind == "one grain":
        image = 1 - 0.2 * rng.random(shape)
    if kind == "steps":  # grains of different grey, no lines: nothing is found, and warned of
        image = 0.3 + 0.4 * rng.random(999)[voronoi_labels(shape, 60, seed=2)]
    if kind == "legend":
        image[-40:, -60:] = 2.5
    return image.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("dark", {}),
        ("dark", {"zoom": 1.5}),
        ("large", {}),
        ("large", {"known": True}),
        ("legend", {}),
        ("legend", {"known": True}),
        ("bright", {}),
        ("bright", {"unsure": True}),
        ("noise", {}),
        ("one grain", {"zoom": 1.0}),
        ("steps", {}),
    ],
    ids=str,
)
def test_the_same_network_is_chosen_and_says_the_same(js, kind, options):
    """A whole segmentation with a fake network: labels, choice, magnification, notes, warnings, evidence."""
    image = micrograph(kind)
    unsure = options.get("unsure", False)
    known = field(image.shape) if "known" in options else None
    first = Fake("appearances", blur=0.5, sees_field=True)
    lines = Fake("label-free", blur=0.5 if unsure else 0.8, sees_field=False, calibrated=not unsure)
    auto = AutoSegmenter((first, lines, Inverted(lines)))
    given = image if known is None else Micrograph(image=image, valid=known)
    expected = auto.segment(given, zoom=options.get("zoom"))
    found = js.run(SEGMENT, image, {"zoom": options.get("zoom"), "known": known}, unsure)
    assert found["zoom"] == pytest.approx(expected.zoom, rel=1e-12)
    assert found["notes"] == list(expected.notes)
    assert found["warnings"] == list(expected.warnings)
    for one, other in zip(found["record"].pop("tried"), expected.record.pop("tried"), strict=True):
        assert one == pytest.approx(other, abs=1.1e-3)
    assert found["record"].pop("evidence") == pytest.approx(expected.record.pop("evidence"), abs=1.1e-3)
    assert found["record"] == expected.record
    np.testing.assert_allclose(found["probability"], expected.probability, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["labels"], expected.labels)
    np.testing.assert_array_equal(found["boundary"], expected.boundary)
    if expected.valid is None:
        assert found["valid"] is None
    else:
        np.testing.assert_array_equal(found["valid"], expected.valid)
    assert found["shares"] == sorted(found["shares"])
    assert (found["shares"][0], found["shares"][-1]) == (0, 1)


def label_image(kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels and a field of view, if any: what a watershed or a mask gives."""
    shape = (151, 190)
    if kind == "one grain":
        return np.pad(np.full((20, 31), 7, np.int32), 30), None
    if kind == "squares":  # equal weights, shapes without a direction
        return np.kron(np.arange(1, 26).reshape(5, 5), np.pad(np.ones((24, 24)), 2)).astype(np.int32), None
    labels = voronoi_labels(shape, 90, lines={"lines": 1, "wide lines": 4, "gaps": 22}.get(kind, 0), seed=4)
    labels[labels == 5] = 0  # a number that is missing
    if not kind.startswith("field"):
        return labels, None
    valid = field(shape)
    if kind == "field with a hole":
        valid[60:80, 70:100] = False
    return np.where(valid, labels, 0).astype(np.int32), valid


LABELS = ("filled", "lines", "wide lines", "gaps", "one grain", "squares", "field", "field with a hole")


@pytest.mark.parametrize("pixel_size", [None, 0.25, 1e-4], ids=str)
@pytest.mark.parametrize("kind", LABELS)
def test_grain_tables_agree_column_by_column(js, tmp_path, kind, pixel_size):
    labels, valid = label_image(kind)
    table = grain_table(labels, pixel_size, valid=valid)
    rows = js("measure", "grainTable", labels, pixel_size, valid)
    assert list(rows[0]) == list(table)
    for column in table:
        found = np.array([row[column] for row in rows], float)
        expected = table[column].to_numpy(float)
        if column == "orientation_deg":  # 179 degrees lies beside 1 degree; round grains have none
            turn = np.abs((found - expected + 90) % 180 - 90)
            assert turn[table["aspect_ratio"] > 1 + 1e-9].max(initial=0) < 1e-6
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-10, err_msg=column)
    write_csv(tmp_path / "grains.csv", table)
    csv = js.run(
        "({measure}, ...a) => measure.grainsCsv(measure.grainTable(...a))", labels, pixel_size, valid
    )
    if kind != "squares":
        assert csv == (tmp_path / "grains.csv").read_text()


@pytest.mark.parametrize("fields", [(2, 2), (1, 1), (3, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("method", ["planimetric", "intercept"])
def test_grain_size_numbers_agree(js, method, fields):
    for kind in LABELS:
        labels, valid = label_image(kind)
        expected = dataclasses.asdict(astm_grain_size(labels, 0.25, method, fields=fields, valid=valid))
        found = js("measure", "astmGrainSize", labels, 0.25, method, {"valid": valid, "fields": fields})
        assert found.pop("method") == expected.pop("method") == method
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True), kind


@pytest.mark.parametrize("kind", [*LABELS, "equal weights"])
def test_summaries_agree(js, kind):
    """To rounding; the interval, whose draws differ, to a few standard errors of its ends."""
    labels, valid = label_image(kind)
    columns = ["diameter_um", "area_um2", "aspect_ratio"]
    table = grain_table(labels, 0.25, valid=valid)
    if kind == "equal weights":  # then quantiles are interpolated
        table = table.assign(edge_weight=1.5, touches_edge=False)
    expected, rows = summarise(table, columns), table.to_dict("records")
    found = js("measure", "summarise", rows, columns)
    assert found == js("measure", "summarise", rows, columns), "the same input, the same interval"
    for column in columns:
        one, other = found[column], expected.loc[column]
        error = 0.1 * (other["mean_high"] - other["mean_low"]) + 1e-9
        for name in ("mean_low", "mean_high"):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=error, nan_ok=True)
        assert one == pytest.approx(other.to_dict(), rel=1e-10, nan_ok=True)


@pytest.mark.parametrize("pixel_size", [None, 0.25, 1e-4, 300.0], ids=str)
@pytest.mark.parametrize("kind", ["lines", "field", "one grain"])
def test_summaries_read_alike(js, kind, pixel_size):
    labels, valid = label_image(kind)
    size = (pixel_size, "a scale bar" if kind == "field" else None)
    table = grain_table(labels, pixel_size, valid=valid)
    expected = MeasuredImage(labels, labels == 0, *size, valid, table).summary
    found = js.run(
        """({measure}, labels, valid, pixelSize, pixelSizeSource) => {
          const rows = measure.grainTable(labels, pixelSize, valid);
          return measure.summaryRows({labels, valid, rows, pixelSize, pixelSizeSource});
        }""",
        *(labels, valid, *size),
    )
    for (quantity, text), (name, value) in zip(found, expected, strict=True):
        assert quantity == name
        if "interval" in name:  # other draws
            text, value = (re.sub(r"[\d.]+", "", one) for one in (text, value))
        assert text == value


def test_numbers_are_written_as_python_writes_them(js):
    rng = np.random.default_rng(0)
    values = [*rng.normal(size=50) * 10.0 ** rng.integers(-9, 12, 50), 0.0, 1e-7, 999.5, 1000.5, 123456789.0]
    values += [0.125, 0.375, 2.5, 3.5, 1004.5, 0.0625, 100.0625, 100.1875, 1234565.0, 8.345, 1.115, 2e20]
    for digits in (1, 3, 6):
        plain = {"precision": digits, "unique": False, "fractional": False, "trim": "-"}
        for function, expected in {
            "significant": [np.format_float_positional(value, **plain) for value in values],
            "fixed": [f"{value:.{digits}f}" for value in values],
        }.items():
            found = js.run("({text}, f, v, d) => v.map((x) => text[f](x, d))", function, values, digits)
            assert found == expected
        found = js.run("({measure}, v, d) => v.map((x) => measure.number(x, d))", values, digits)
        assert found == [number(value, digits) for value in values]
    sizes = [1e-5, 0.0999, 0.1, 12.3456, 999.99, 1000.0, 1e7]
    assert js.run("({measure}, v) => v.map((x) => measure.length(x))", sizes) == [length(x) for x in sizes]


def test_small_parts_of_the_choice_agree(js):
    one, other = voronoi_labels((60, 71), 20, lines=1), voronoi_labels((60, 71), 15, seed=1)
    assert js("choice", "adaptedRandError", one, other) == pytest.approx(adapted_rand_error(one, other))
    assert js("choice", "meanIntercept", other) == pytest.approx(mean_intercept(other), rel=1e-14)
    assert js("choice", "meanIntercept", 0 * other + 1) == np.inf
    image = np.random.default_rng(0).random((60, 71), np.float32)
    for labels, valid in ((one, None), (other, other > 4), (0 * one, None)):
        found = js("choice", "look", image, image, labels, valid, {"disagreement": 0.25})
        assert found == pytest.approx(vars(look(image, image, labels, valid, disagreement=0.25)), abs=1e-6)


@pytest.mark.parametrize("scale", [2, 5, 30])
def test_fields_of_view_agree(js, scale):
    """Specks, legends, corners, many pieces, almost everything; also of an image that is reduced first."""
    rng = np.random.default_rng(scale)
    noise = ndimage.gaussian_filter(rng.standard_normal((1040, 110) if scale == 30 else (130, 97)), scale)
    for share in (0.02, 0.1, 0.3, 0.8):
        outside = (noise > np.quantile(noise, 1 - share)) * np.float32(0.9)
        for zoom in (0.4, 1.0, 2.0):
            expected, found = field_of_view(outside, zoom), js("choice", "fieldOfView", outside, zoom)
            if expected is None:
                assert found is None
            else:
                np.testing.assert_array_equal(found, expected)


def stripes(part: np.ndarray) -> np.ndarray:
    """Labels whose intercept jumps up and down with the magnification, so that it often meets a design."""
    return np.broadcast_to(np.arange(part.shape[1]) // (1 + 7 * part.shape[0] % 13), part.shape).astype(
        np.int32
    )


STRIPES = """({data, height, width}) => ({
  data: Int32Array.from(data, (_, i) => Math.floor((i % width) / (1 + (7 * height) % 13))), height, width,
})"""


@pytest.mark.parametrize("shape", [(70, 91), (200, 301), (20, 20)], ids=str)
@pytest.mark.parametrize("design", [2.0, 9.0, 15.0, 17.0, 1e3])
def test_matching_zooms_agree(js, design, shape):
    """Designs that are met once, several times, or nowhere."""
    image = np.zeros(shape, np.float32)
    source = f"(m, image, design) => m.choice.matchingZoom(image, async (part) => ({STRIPES})(part), design)"
    assert js.run(source, image, design) == pytest.approx(matching_zoom(image, stripes, design), rel=1e-12)


@pytest.mark.parametrize("shape", [(70, 91), (300, 260), (20, 20)], ids=str)
def test_trials_of_magnifications_agree(js, shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    expected = zoom_trials(image, lambda part: (part, stripes(part) + 1, None), window=150)
    source = f"""({{choice}}, image) => choice.zoomTrials(image, async (part) => {{
      const labels = ({STRIPES})(part);
      return {{probability: part, labels: {{...labels, data: labels.data.map((n) => n + 1)}}, valid: null}};
    }}, {{window: 150}})"""
    found = js.run(source, image)
    assert [trial["zoom"] for trial in found] == [trial.zoom for trial in expected]
    for one, other in zip(found, expected):
        assert one == pytest.approx(vars(other), rel=1e-5)


def test_the_most_confident_magnification_is_the_same(js):
    """Of random trials: some are dominated by a grain, some are as good as the best."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        trials = [
            ZoomTrial(zoom, float(rng.choice([0.8, 0.81, 0.9])), float(rng.choice([0.1, 0.4, 0.8])), 9)
            for zoom in (0.25, 0.5, 1.0, 1.5, 2.0)
        ]
        expected = most_confident(trials)
        assert js("choice", "mostConfident", [vars(trial) for trial in trials]) == vars(expected)


@pytest.mark.parametrize(
    "image",
    [np.zeros((40, 40)), np.ones((8, 90)), np.full((40, 40), np.nan)],
    ids=["constant", "small", "NaN"],
)
def test_what_cannot_be_segmented_is_said_in_the_same_words(js, image):
    image = image.astype(np.float32)
    with pytest.raises(ImageError) as error:
        checked_image(image)
    source = "({choice}, image) => { try { choice.checkedImage(image); } catch (e) { return e.message; } }"
    assert js.run(source, image) == str(error.value)
