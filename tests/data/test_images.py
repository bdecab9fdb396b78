"""Reading and writing images: grey levels, pixel sizes, data bars, and one clear line for every mistake."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from microlab.data import datasets, images, mapped
from microlab.data.errors import ImageError
from microlab.data.images import (
    find_data_bar,
    read_image,
    read_labels,
    write_image,
    write_labels,
    write_mask,
    write_stack,
)
from microlab.data.masks import read_mask


def levels(shape=(40, 52), top=256, dtype=np.uint8, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


# --- grey levels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "compression"), [("png", None), ("tif", None), ("tif", "tiff_lzw"), ("bmp", None)]
)
def test_eight_bits_are_divided_by_255(tmp_path, suffix, compression):
    stored = levels()
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, **({"compression": compression} if compression else {}))
    image = read_image(path)
    assert image.image.dtype == np.float32
    assert image.bits == 8
    assert np.array_equal(image.image, stored.astype(np.float32) / np.float32(255))


def test_the_white_level_of_16_bit_and_12_bit_images_is_detected(tmp_path):
    for top, white, bits in ((65536, 65535, 16), (4096, 4095, 12)):
        stored = levels(top=top, dtype=np.uint16)
        stored[0, 0] = top - 1
        for path in (tmp_path / "a.tif", tmp_path / "a.png"):
            tifffile.imwrite(path, stored) if path.suffix == ".tif" else Image.fromarray(stored).save(path)
            image = read_image(path)
            assert image.bits == bits
            np.testing.assert_allclose(image.image, stored / white, atol=1e-7)
    assert read_image(path, bits=16).image.max() == pytest.approx(4095 / 65535)


def test_floating_point_in_the_unit_range_is_kept_and_other_ranges_are_stretched(tmp_path):
    grey = np.random.default_rng(0).random((30, 30), dtype=np.float32)
    tifffile.imwrite(tmp_path / "unit.tif", grey)
    assert np.array_equal(read_image(tmp_path / "unit.tif").image, grey)
    for other in (grey * 700 - 20, (grey * 1e6).astype(np.int32), (grey * 1e9).astype(np.uint32)):
        tifffile.imwrite(tmp_path / "other.tif", other)
        pixels = read_image(tmp_path / "other.tif").image
        assert (pixels.min(), pixels.max()) == (0, 1)
        np.testing.assert_allclose(pixels, (other - other.min()) / np.ptp(other.astype(float)), atol=1e-6)


def test_one_colour_becomes_its_luminance_and_transparency_is_dropped(tmp_path):
    red = np.zeros((20, 20, 4), np.uint8)
    red[..., 0] = 255  # fully transparent red
    for path in (tmp_path / "red.png", tmp_path / "red.tif"):
        Image.fromarray(red).save(path)
        np.testing.assert_allclose(read_image(path).image, 0.2126, atol=1e-4)
    grey = levels((20, 20))
    tifffile.imwrite(tmp_path / "grey.tif", np.stack([grey] * 3), planarconfig="separate", photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "grey.tif").image, grey / np.float32(255))
    Image.fromarray(np.stack([grey, grey // 2], axis=-1), "LA").save(tmp_path / "la.png")
    assert np.array_equal(read_image(tmp_path / "la.png").image, grey / np.float32(255))


def test_grains_of_different_hue_and_equal_luminance_differ_in_grey(tmp_path, monkeypatch):
    """As a file of any size is read, whole or band by band."""
    hues = np.array([[0.9, 0.35, 0.3], [0.3, 0.52, 0.35], [0.6, 0.44, 0.32]])
    squares = (np.indices((90, 120)) // 15).sum(0) % 3
    noise = 0.01 * np.random.default_rng(0).standard_normal((90, 120, 3))
    colours = np.rint(255 * np.clip(hues[squares] + noise, 0, 1)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "hues.png")
    image = read_image(tmp_path / "hues.png", data_bar=0).image
    levels = [image[squares == k].mean() for k in range(3)]
    assert min(abs(a - b) for a, b in zip(levels, levels[1:] + levels[:1])) > 8 * image[squares == 0].std()
    monkeypatch.setattr(images, "is_large", lambda shape: True)
    mapped = read_image(tmp_path / "hues.png", data_bar=0, folder=tmp_path).image
    np.testing.assert_allclose(mapped, image, atol=1e-6)


def test_palettes_and_inverted_tiffs_are_resolved(tmp_path):
    stored = levels((24, 24))
    palette = Image.fromarray(stored, "P")
    palette.putpalette(np.repeat(255 - np.arange(256), 3).astype(np.uint8).tobytes())  # index 0 is white
    for name in ("p.png", "p.tif", "p.gif"):
        palette.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name).image, (255 - stored) / np.float32(255)), name
    tifffile.imwrite(tmp_path / "inverted.tif", stored, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "inverted.tif").image, (255 - stored) / np.float32(255))


@pytest.mark.parametrize("channels", [2, 4])
def test_opaque_pixels_do_not_decide_what_white_is(tmp_path, channels):
    """Grey from a 12-bit camera, with the transparency that an editor added at 16 bits."""
    grey = np.arange(64 * 80).reshape(64, 80).astype(np.uint16) % 4096
    stored = np.stack([grey] * (channels - 1) + [np.full_like(grey, 65535)], axis=-1)
    how = {"photometric": "minisblack" if channels == 2 else "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "opaque.tif", stored, planarconfig="contig", **how)
    image = read_image(tmp_path / "opaque.tif")
    assert image.bits == 12
    assert np.array_equal(image.image, grey / np.float32(4095))


def test_jpeg_is_read_within_its_compression_noise(tmp_path):
    ramp = np.linspace(0, 1, 64 * 80, dtype=np.float32).reshape(64, 80)
    write_image(tmp_path / "a.jpg", ramp)
    assert np.abs(read_image(tmp_path / "a.jpg").image - ramp).max() < 0.03


# --- pixel size ------------------------------------------------------------------------------------------


def write_fei(path, stored, pixel_metres=2.5e-8, scanned_rows=None):
    """A TIFF with the text that FEI and Thermo Fisher microscopes write to tag 34682."""
    rows = stored.shape[0] if scanned_rows is None else scanned_rows
    text = (
        "[User]\r\nUser=supervisor\r\n[Beam]\r\nHV=15000\r\n"
        f"[Scan]\r\nPixelWidth={pixel_metres}\r\nPixelHeight={pixel_metres}\r\n"
        f"[Image]\r\nResolutionX={stored.shape[1]}\r\nResolutionY={rows}\r\n"
    )
    tifffile.imwrite(path, stored, extratags=[(34682, "s", 0, text, True)], metadata=None)


def write_zeiss(path, stored, named="3.166 nm", header_metres=9.9e-9):
    """A TIFF with the text that Zeiss SmartSEM writes to tag 34118."""
    text = f"0\r\n0\r\n0\r\n{header_metres}\r\n1.0e+04\r\n6\r\nDP_ZOOM\r\nZoom = Off\r\n"
    if named:
        text += f"AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {named}\r\n"
    tifffile.imwrite(path, stored, extratags=[(34118, "s", 0, text.encode("cp1252"), True)], metadata=None)


def test_pixel_size_of_an_fei_image_comes_from_its_tag(tmp_path):
    write_fei(tmp_path / "fei.tif", levels())
    image = read_image(tmp_path / "fei.tif")
    assert image.pixel_size == pytest.approx(0.025)
    assert image.pixel_size_source == "FEI tag"


def test_data_bar_of_an_fei_image_is_cut_by_its_own_height(tmp_path):
    stored = levels((90, 64))
    write_fei(tmp_path / "fei.tif", stored, scanned_rows=80)
    image = read_image(tmp_path / "fei.tif")
    assert image.data_bar_height == 10
    assert np.array_equal(image.image, stored[:80] / np.float32(255))


@pytest.mark.parametrize(
    ("named", "micrometres"), [("3.166 nm", 3.166e-3), ("0.25 µm", 0.25), ("558.2 pm", 5.582e-4)]
)
def test_pixel_size_of_a_zeiss_image_comes_from_its_tag(tmp_path, named, micrometres):
    write_zeiss(tmp_path / "zeiss.tif", levels(), named)
    assert read_image(tmp_path / "zeiss.tif").pixel_size == pytest.approx(micrometres)


def test_an_old_zeiss_image_has_its_display_size_rescaled(tmp_path):
    # The header counts pixels of a display 1024 wide: the same field on 512 has pixels twice as large.
    write_zeiss(tmp_path / "zeiss.tif", levels((32, 512)), named=None, header_metres=3.59375e-8)
    assert read_image(tmp_path / "zeiss.tif").pixel_size == pytest.approx(2 * 0.0359375)


@pytest.mark.parametrize("unit", ["um", "micron", "nm", "mm", "\\u00B5m"])
def test_pixel_size_of_an_imagej_image_follows_its_unit(tmp_path, unit):
    factor = {"nm": 1e-3, "mm": 1e3}.get(unit, 1.0)
    tifffile.imwrite(
        tmp_path / "a.tif", levels(), imagej=True, resolution=(4.0, 4.0), metadata={"unit": unit}
    )
    assert read_image(tmp_path / "a.tif").pixel_size == pytest.approx(0.25 * factor)


def test_pixel_size_of_an_ome_image_comes_from_its_xml(tmp_path):
    physical = {"axes": "YX", "PhysicalSizeX": 65.0, "PhysicalSizeXUnit": "nm"}
    physical |= {"PhysicalSizeY": 65.0, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", levels(), metadata=physical)
    assert read_image(tmp_path / "a.ome.tif").pixel_size == pytest.approx(0.065)


def test_resolution_tags_give_a_pixel_size_but_a_print_resolution_does_not(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", levels(), resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    assert read_image(tmp_path / "a.tif").pixel_size == pytest.approx(0.5)
    tifffile.imwrite(tmp_path / "b.tif", levels(), resolution=(300, 300), resolutionunit="INCH")
    assert read_image(tmp_path / "b.tif").pixel_size is None
    Image.fromarray(levels()).save(tmp_path / "c.png", dpi=(150, 150))
    assert read_image(tmp_path / "c.png").pixel_size is None
    Image.fromarray(levels()).save(tmp_path / "d.png")
    assert read_image(tmp_path / "d.png").pixel_size is None


def test_sidecars_of_jeol_and_hitachi_are_read(tmp_path):
    Image.fromarray(levels()).save(tmp_path / "jeol.bmp")
    (tmp_path / "jeol.txt").write_text("$CM_MAG 5000\r\n$$SM_MICRON_BAR 160\r\n$$SM_MICRON_MARKER 4um\r\n")
    assert read_image(tmp_path / "jeol.bmp").pixel_size == pytest.approx(4 / 160)
    Image.fromarray(levels()).save(tmp_path / "hitachi.bmp")
    (tmp_path / "hitachi.txt").write_text("[SemImageFile]\nInstructName=S4800\nPixelSize=19.84375\n")
    assert read_image(tmp_path / "hitachi.bmp").pixel_size == pytest.approx(0.01984375)


@pytest.mark.parametrize("text", ["PixelSize=1.2.3\n", "$$SM_MICRON_BAR .\n$$SM_MICRON_MARKER 4um\n"])
def test_a_sidecar_without_a_number_is_named(tmp_path, text):
    Image.fromarray(levels()).save(tmp_path / "field.bmp")
    (tmp_path / "field.txt").write_text(text)
    with pytest.raises(ImageError, match=r"field\.txt: '.*' is no number; correct"):
        read_image(tmp_path / "field.bmp")


def test_a_given_pixel_size_wins_and_nonsense_is_refused(tmp_path):
    write_fei(tmp_path / "fei.tif", levels())
    image = read_image(tmp_path / "fei.tif", pixel_size=0.1)
    assert (image.pixel_size, image.pixel_size_source) == (0.1, "given")
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ImageError, match="positive"):
            read_image(tmp_path / "fei.tif", pixel_size=wrong)


def test_pixels_that_are_not_square_are_reported(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", levels(), resolution=(2e4, 1e4), resolutionunit="CENTIMETER")
    with pytest.warns(UserWarning, match="not square"):
        assert read_image(tmp_path / "a.tif").pixel_size is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.tif", pixel_size=1.0).pixel_size == 1.0


# --- data bar --------------------------------------------------------------------------------------------


def micrograph(shape=(300, 400), seed=0) -> np.ndarray:
    """A noisy grey field, in [0, 1]."""
    rng = np.random.default_rng(seed)
    return np.clip(0.5 + 0.15 * rng.standard_normal(shape), 0, 1).astype(np.float32)


def with_bar(image, height, background, rules):
    """A micrograph with a data bar as microscopes draw it: text and optionally a frame with rules."""
    bar = Image.new("L", (image.shape[1], height), background)
    draw = ImageDraw.Draw(bar)
    font = ImageFont.load_default(max(9, int(0.45 * height)))
    text = "15.00 kV  10.0 mm  5 000 x  ETD  8/12/2019  HFW 29.8 um  --- 10 um ---"
    draw.text((4, 0.2 * height), text, fill=255 - background, font=font)
    if rules:
        draw.rectangle((0, 0, image.shape[1] - 1, height - 1), outline=255 - background)
        for x in range(60, image.shape[1], 90):
            draw.line((x, 0, x, height), fill=255 - background)
    return np.vstack([np.rint(image * 255).astype(np.uint8), np.asarray(bar)])


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("rules", [False, True])
@pytest.mark.parametrize("height", [16, 30, 60])
def test_data_bar_is_found_at_its_first_row(background, rules, height):
    assert find_data_bar(with_bar(micrograph(), height, background, rules) / 255) == 300


def test_data_bar_is_found_after_jpeg_compression_and_cut(tmp_path):
    Image.fromarray(with_bar(micrograph(), 40, 0, True)).save(tmp_path / "a.jpg", quality=80)
    image = read_image(tmp_path / "a.jpg")
    assert abs(image.data_bar_height - 40) <= 1
    assert image.image.shape[0] == 340 - image.data_bar_height


def test_data_bar_of_a_given_height_is_cut_and_zero_keeps_it(tmp_path):
    Image.fromarray(with_bar(micrograph(), 40, 0, False)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", data_bar=25).image.shape == (315, 400)
    assert read_image(tmp_path / "a.png", data_bar=0).image.shape == (340, 400)
    for wrong in (-1, 330, "left"):
        with pytest.raises(ImageError, match="data bar"):
            read_image(tmp_path / "a.png", data_bar=wrong)


def test_a_data_bar_at_the_top_is_found_there_or_cut_by_its_rows(tmp_path):
    turned = with_bar(micrograph(), 40, 0, False)[::-1]
    Image.fromarray(turned).save(tmp_path / "a.png")
    for how in ("auto", "top", "top:40"):
        image = read_image(tmp_path / "a.png", data_bar=how)
        assert (image.data_bar_top, image.data_bar_height) == (40, 0)
        assert np.array_equal(image.image, turned[40:] / np.float32(255))
    with pytest.raises(ImageError, match=r"no data bar was found at the bottom; .* as bottom:64"):
        read_image(tmp_path / "a.png", data_bar="bottom")
    assert read_image(tmp_path / "a.png", data_bar="bottom:30").image.shape == (310, 400)


def test_a_part_is_read_as_if_it_were_cut_out_before(tmp_path):
    stored = with_bar(micrograph(), 40, 0, False)
    Image.fromarray(stored).save(tmp_path / "a.png")
    part = read_image(tmp_path / "a.png", crop=(30, 20, 200, 150)).image
    assert np.array_equal(part, stored[20:170, 30:230] / np.float32(255))
    assert read_image(tmp_path / "a.png", crop=(0, 100, 400, 240)).data_bar_height == 40
    for wrong in ((0, 0, 401, 20), (-1, 0, 20, 20), (0, 330, 20, 20)):
        with pytest.raises(ImageError, match="has 400 x 340 pixels; a crop"):
            read_image(tmp_path / "a.png", crop=wrong)
    with pytest.raises(ImageError, match="at least 16 x 16"):
        read_image(tmp_path / "a.png", crop=(0, 0, 9, 99))


def test_the_bar_that_a_maker_names_is_cut_from_a_part(tmp_path):
    stored = levels((90, 64))
    write_fei(tmp_path / "fei.tif", stored, scanned_rows=80)
    assert read_image(tmp_path / "fei.tif", crop=(0, 10, 64, 74)).data_bar_height == 4
    assert read_image(tmp_path / "fei.tif", crop=(0, 10, 64, 40)).data_bar_height == 0


def test_frames_dark_backgrounds_and_saturated_images_are_not_data_bars():
    image = micrograph()
    framed = np.pad(image, 2)
    dark = np.clip(image - 0.45, 0, 1)  # more than a third of the pixels are exactly black
    saturated = np.clip((image - 0.5) * 20 + 0.5, 0, 1)
    half_dark = image.copy()
    half_dark[200:] = np.clip(image[200:] - 0.2, 0, 1)  # a dark but noisy lower third
    for case in (image, framed, dark, saturated, half_dark, np.zeros((300, 400), np.float32), image[:20]):
        assert find_data_bar(case) is None


@pytest.mark.parametrize("name", sorted(datasets.DATASETS))
def test_no_data_bar_is_detected_in_real_micrographs_without_one(name):
    if not datasets.available(name):
        pytest.skip(f"{name} is not on this machine; set MICROLAB_DATA")
    for sample in datasets.load(name)[:6]:
        for image in (sample.image, sample.image[::-1], np.clip(sample.image * 1.5 - 0.5, 0, 1)):
            assert find_data_bar(image) is None, sample.name


# --- mistakes --------------------------------------------------------------------------------------------


def bad_files(folder):
    """Name -> (function that writes the file, pattern of the error)."""
    good = levels((64, 64))

    def cut(path):
        tifffile.imwrite(path, good) if path.suffix == ".tif" else Image.fromarray(good).save(path)
        path.write_bytes(path.read_bytes()[:600])

    return {
        "missing.png": (lambda path: None, "no such file"),
        "folder": (lambda path: path.mkdir(), "folder"),
        "empty.tif": (lambda path: path.touch(), "0 bytes"),
        "notes.png": (lambda path: path.write_text("grain size 5 um\n" * 9), "not an image"),
        "header.tif": (lambda path: path.write_bytes(b"II*\0" + b"\xff" * 40), "damaged"),
        "cut.tif": (cut, "damaged"),
        "cut.png": (cut, "damaged"),
        "cut.jpg": (cut, "damaged"),
        "nan.tif": (lambda path: tifffile.imwrite(path, good * np.float32(np.nan)), "no pixel has a value"),
        "one.png": (lambda path: Image.new("L", (1, 1)).save(path), "1 x 1 pixels"),
        "thin.tif": (lambda path: tifffile.imwrite(path, good[:3]), "3 x 64 pixels"),
        "pages.tif": (
            lambda path: tifffile.imwrite(path, np.stack([good] * 3), photometric="minisblack"),
            "3 pages",
        ),
        "complex.tif": (lambda path: tifffile.imwrite(path, good.astype(np.complex64)), "complex"),
    }


@pytest.mark.parametrize("name", sorted(bad_files(None)))
def test_every_bad_file_gives_one_line_that_names_it(tmp_path, name, caplog):
    make, reason = bad_files(tmp_path)[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(ImageError, match=reason) as error:
        read_image(path)
    assert str(path) in one_line(error)
    assert not caplog.records


def test_pages_are_read_by_explicit_choice(tmp_path):
    stack = levels((3, 20, 20))
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "a.tif", page=1).image, stack[1] / np.float32(255))
    with pytest.raises(ImageError, match="no page 3"):
        read_image(tmp_path / "a.tif", page=3)
    with pytest.raises(ImageError, match="no page -1"):
        read_image(tmp_path / "a.tif", page=-1)


def test_a_thumbnail_is_not_a_second_page(tmp_path):
    stored = levels((64, 64))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(stored, metadata=None)
        tif.write(stored[::4, ::4], subfiletype=1, metadata=None)
    assert np.array_equal(read_image(tmp_path / "a.tif").image, stored / np.float32(255))


def test_bits_that_cannot_hold_the_values_are_refused(tmp_path):
    Image.fromarray(levels()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="do not fit into 4 bits"):
        read_image(tmp_path / "a.png", bits=4)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write anything"
)
def test_lack_of_permission_is_reported(tmp_path):
    path = write_image(tmp_path / "a.png", micrograph())
    path.chmod(0)
    with pytest.raises(ImageError, match="no permission"):
        read_image(path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ImageError, match="cannot be written"):
            write_image(tmp_path / "b.png", micrograph())
    finally:
        tmp_path.chmod(0o700)


def test_permission_errors_of_the_system_become_one_line(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", micrograph())

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ImageError, match="no permission to read"):
        read_image(path)


# --- writing ---------------------------------------------------------------------------------------------


def test_a_pixel_too_small_for_png_is_refused_and_tiff_holds_it(tmp_path):
    image = np.random.default_rng(0).random((16, 16))
    with pytest.raises(ImageError, match=r"write \.tif"):
        write_image(tmp_path / "a.png", image, pixel_size=1e-4)
    assert not list(tmp_path.iterdir())
    path = write_image(tmp_path / "a.tif", image, pixel_size=1e-4)
    assert read_image(path, data_bar=0).pixel_size == pytest.approx(1e-4, rel=1e-3)


def test_a_stack_is_read_as_frames_of_one_size_with_the_unit_of_a_pixel(tmp_path):
    stack = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    path = write_stack(tmp_path / "a.tif", stack, pixel_size=0.002)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 3
        assert tif.imagej_metadata["frames"] == 3
        assert np.array_equal(tif.asarray(), stack)
    second = read_image(path, data_bar=0, page=1)
    assert np.array_equal(second.image, stack[1])
    assert second.pixel_size == pytest.approx(0.002, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "stack", "words"),
    [
        ("a.png", np.zeros((2, 9, 9)), "needs .tif"),
        ("a.tif", np.zeros((9, 9)), r"\(N, H, W\)"),
        ("a.tif", np.full((2, 9, 9), 1.5), r"\[0, 1\]"),
        ("a.tif", np.full((2, 9, 9), np.nan), "NaN"),
    ],
)
def test_a_wrong_stack_is_refused(tmp_path, name, stack, words):
    with pytest.raises(ImageError, match=words):
        write_stack(tmp_path / name, stack)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(16, 50),
    width=st.integers(16, 50),
    kind=st.sampled_from([("png", 8), ("png", 16), ("tif", 8), ("tif", 16), ("tif", 32)]),
    pixel_size=st.one_of(st.none(), st.floats(2.5e-4, 9)),
)
def test_written_images_read_back_within_half_a_level(
    tmp_path_factory, seed, height, width, kind, pixel_size
):
    suffix, bits = kind
    image = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    path = write_image(tmp_path_factory.mktemp("i") / f"a.{suffix}", image, pixel_size=pixel_size, bits=bits)
    back = read_image(path, data_bar=0)
    half_level = 0 if bits == 32 else 0.5 / (2**bits - 1) + 1e-7
    assert np.abs(back.image - image).max() <= half_level
    if pixel_size is None:
        assert back.pixel_size is None
    else:
        assert back.pixel_size == pytest.approx(pixel_size, rel=1e-3)


def test_colour_images_read_back_by_another_library(tmp_path):
    image = np.random.default_rng(1).random((20, 30, 3))
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, image, pixel_size=0.02)
        assert np.abs(np.asarray(Image.open(tmp_path / name)) / 255 - image).max() <= 0.5 / 255
        assert read_image(tmp_path / name).pixel_size == pytest.approx(0.02, rel=1e-3)


def test_masks_are_0_and_255_and_read_back(tmp_path):
    mask = np.random.default_rng(0).random((33, 41)) < 0.2
    path = write_mask(tmp_path / "mask.png", mask)
    assert np.array_equal(np.asarray(Image.open(path)), mask * np.uint8(255))
    assert np.array_equal(read_mask(path)[0], mask)


@pytest.mark.parametrize(("count", "dtype"), [(200, np.uint16), (65535, np.uint16), (70000, np.int32)])
def test_labels_keep_every_number_and_the_pixel_size(tmp_path, count, dtype):
    labels = np.zeros((300, 300), np.int32)
    labels.ravel()[: count + 1] = np.arange(count + 1)
    path = write_labels(tmp_path / "labels.tif", labels, pixel_size=0.2252)
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].dtype == dtype
        assert tif.is_imagej == (dtype == np.uint16)
        if tif.is_imagej:
            assert tif.imagej_metadata["unit"] == "um"
    back, pixel_size = read_labels(path)
    assert back.dtype == np.int32
    assert np.array_equal(back, labels)
    assert pixel_size == pytest.approx(0.2252, rel=1e-4)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", micrograph())
    before = path.read_bytes()

    def full(name, *args, **kwargs):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(ImageError, match="No space left on device"):
        write_image(path, micrograph(seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.tif"]


def test_writing_to_an_impossible_folder_gives_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot be written") as error:
        write_mask(tmp_path / "file" / "mask.png", np.ones((20, 20), bool))
    assert "mask.png" in one_line(error)


def test_arguments_that_cannot_be_written_are_refused(tmp_path):
    grey = micrograph()
    path = tmp_path / "a.png"
    for wrong in (grey[0], grey * 2, np.where(grey > 0.5, np.nan, grey), np.zeros((4, 4, 2))):
        with pytest.raises(ImageError, match="image must"):
            write_image(path, wrong)
    for name, bits in (("a.png", 32), ("a.jpg", 16), ("a.xyz", 8)):
        with pytest.raises(ImageError, match="bits"):
            write_image(tmp_path / name, grey, bits=bits)
    with pytest.raises(ImageError, match="pixel size"):
        write_image(path, grey, pixel_size=-1)
    with pytest.raises(ImageError, match="bool"):
        write_mask(path, grey)
    with pytest.raises(ImageError, match="blur"):
        write_mask(tmp_path / "a.jpg", grey > 0.5)
    with pytest.raises(ImageError, match="whole numbers"):
        write_labels(tmp_path / "a.tif", grey)
    with pytest.raises(ImageError, match="whole numbers"):
        write_labels(tmp_path / "a.tif", np.full((3, 3), -1))
    with pytest.raises(ImageError, match=r"need \.tif"):
        write_labels(path, np.ones((3, 3), int))
    assert not list(tmp_path.iterdir())


def test_invalid_label_files_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", micrograph())
    with pytest.raises(ImageError, match="whole numbers"):
        read_labels(tmp_path / "p.tif")
    Image.fromarray(levels((20, 20, 3))).save(tmp_path / "c.png")
    with pytest.raises(ImageError, match="colour picture; masks and labels are one plane"):
        read_labels(tmp_path / "c.png")


@pytest.mark.parametrize("colours", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_large_image_in_a_file_has_the_grey_levels_of_one_in_memory(tmp_path, monkeypatch, colours, dtype):
    rng = np.random.default_rng(0)
    stored = rng.random((60, 70, *colours)) * (1 if dtype == np.float32 else 255)
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path, stored.astype(dtype), photometric="rgb" if colours in ((3,), (4,)) else "minisblack"
    )
    whole = read_image(path).image
    monkeypatch.setattr(mapped, "LARGE", 1000)
    monkeypatch.setattr(mapped, "BAND", 500)
    mapped_image = read_image(path, folder=tmp_path / "maps").image
    # The three colours are summed in another order.
    np.testing.assert_allclose(mapped_image, whole, atol=1e-7)
    assert list((tmp_path / "maps").iterdir()) == []


def test_large_labels_and_masks_are_pyramids_of_tiles_with_the_pixel_size(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 1000)
    labels = np.random.default_rng(0).integers(0, 70_000, (700, 2100)).astype(np.int32)
    labels_path = write_labels(tmp_path / "labels.tif", labels, pixel_size=0.05)
    mask_path = write_mask(tmp_path / "mask.tif", labels > 9, pixel_size=0.05)
    for path, dtype in ((labels_path, np.int32), (mask_path, np.uint8)):
        with tifffile.TiffFile(path) as tif:
            assert tif.is_bigtiff
            assert tif.is_ome
            # The reduced copies are its sub-images, so that viewers show one image.
            assert len(tif.pages) == 1
            assert tif.pages[0].tile == (512, 512)
            assert [level.shape for level in tif.series[0].levels] == [(700, 2100), (350, 1050), (175, 525)]
            assert tif.series[0].dtype == dtype
            np.testing.assert_array_equal(tif.series[0].levels[1].asarray() > 0, tif.asarray()[::2, ::2] > 0)
    read, pixel_size = read_labels(labels_path)
    np.testing.assert_array_equal(read, labels)
    assert pixel_size == pytest.approx(0.05)
    np.testing.assert_array_equal(read_mask(mask_path)[0], labels > 9)
    assert read_image(mask_path).pixel_size == pytest.approx(0.05)
    again = write_labels(tmp_path / "again.tif", labels, pixel_size=0.05)
    assert again.read_bytes() == labels_path.read_bytes()
    few = write_labels(tmp_path / "few.tif", labels % 100)
    with tifffile.TiffFile(few) as tif:
        assert tif.series[0].dtype == np.uint16
