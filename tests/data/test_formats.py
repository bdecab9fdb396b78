"""Containers: the same picture gives the same values, and what cannot be read is refused in one line."""

from __future__ import annotations

import os
import socket
import struct
import subprocess

import numpy as np
import pytest
import tifffile
from pictures import save
from PIL import Image, ImageOps

from microlab.data import formats
from microlab.data.errors import ImageError, InputError
from microlab.data.files import claim
from microlab.data.formats import count_pages, find_images, read_numbers, read_stored
from microlab.data.images import read_image

GREY = np.random.default_rng(0).integers(0, 256, (40, 52)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (40, 52)).astype(np.uint16)
RGB = np.random.default_rng(2).integers(0, 256, (40, 52, 3)).astype(np.uint8)


def cmyk(grey):
    return np.dstack([255 - grey] * 3 + [np.zeros_like(grey)])


def with_alpha(grey):
    return np.dstack([grey, np.full_like(grey, 255)])


def palette(path, **options):
    image = Image.fromarray(255 - GREY, "P")
    image.putpalette(np.repeat(255 - np.arange(256), 3).astype(np.uint8).tobytes())
    image.save(path, **options)


WRITERS = {  # name -> function that writes GREY so that every viewer shows the same
    "raw.tif": lambda p: tifffile.imwrite(p, GREY),
    "deflate.tif": lambda p: tifffile.imwrite(p, GREY, compression="zlib", predictor=True),
    "tiles.tif": lambda p: tifffile.imwrite(p, GREY, tile=(16, 16)),
    "big.tif": lambda p: tifffile.imwrite(p, GREY, bigtiff=True, byteorder=">"),
    "lzw.tif": lambda p: save(p, GREY, compression="tiff_lzw"),
    "packbits.tif": lambda p: save(p, GREY, compression="packbits"),
    "white.tif": lambda p: tifffile.imwrite(p, 255 - GREY, photometric="miniswhite"),
    "white_lzw.tif": lambda p: save(p, GREY, compression="tiff_lzw", tiffinfo={262: 0}),
    "cmyk.tif": lambda p: tifffile.imwrite(p, cmyk(GREY), photometric="separated"),
    "cmyk_lzw.tif": lambda p: save(p, cmyk(GREY), "CMYK", compression="tiff_lzw"),
    "rgb.tif": lambda p: tifffile.imwrite(p, np.dstack([GREY] * 3), photometric="rgb"),
    "planes.tif": lambda p: tifffile.imwrite(
        p, np.stack([GREY] * 3), photometric="rgb", planarconfig="separate"
    ),
    "rgba.png": lambda p: save(p, np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])),
    "grey_alpha.png": lambda p: save(p, with_alpha(GREY), "LA"),
    "grey_alpha.tif": lambda p: tifffile.imwrite(
        p, with_alpha(GREY), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]
    ),
    "palette.png": palette,
    "palette.tif": palette,
    "palette_lzw.tif": lambda p: palette(p, compression="tiff_lzw"),
    "palette.gif": palette,
    "grey.png": lambda p: save(p, GREY),
    "grey.bmp": lambda p: save(p, GREY),
    "lossless.webp": lambda p: save(p, np.dstack([GREY] * 3), lossless=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_containers_of_one_picture_give_the_same_image(tmp_path, name):
    WRITERS[name](tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name).image, GREY / np.float32(255))


DEEP_WRITERS = {
    "raw.tif": lambda p: tifffile.imwrite(p, DEEP),
    "lzw.tif": lambda p: save(p, DEEP, compression="tiff_lzw"),
    "big_endian.tif": lambda p: tifffile.imwrite(p, DEEP, byteorder=">"),
    "deflate.tif": lambda p: tifffile.imwrite(p, DEEP, compression="zlib"),
    "png.png": lambda p: save(p, DEEP),
    "white.tif": lambda p: tifffile.imwrite(p, 65535 - DEEP, photometric="miniswhite"),
    "white_pillow.tif": lambda p: save(p, 65535 - DEEP, tiffinfo={262: 0}),
    "white_lzw.tif": lambda p: save(p, 65535 - DEEP, compression="tiff_lzw", tiffinfo={262: 0}),
    "cmyk.tif": lambda p: tifffile.imwrite(
        p, np.dstack([65535 - DEEP] * 3 + [DEEP * 0]), photometric="separated"
    ),
}


@pytest.mark.parametrize("name", DEEP_WRITERS)
def test_containers_of_one_picture_of_16_bits_give_the_same_image(tmp_path, name):
    DEEP_WRITERS[name](tmp_path / name)
    np.testing.assert_allclose(read_image(tmp_path / name).image, DEEP / 65535, atol=1e-7)


def test_colours_are_the_same_in_every_container(tmp_path):
    tifffile.imwrite(tmp_path / "raw.tif", RGB, photometric="rgb")
    save(tmp_path / "lzw.tif", RGB, compression="tiff_lzw")
    save(tmp_path / "grey.png", RGB)
    ink = np.dstack([255 - RGB, np.zeros_like(GREY)])
    tifffile.imwrite(tmp_path / "cmyk.tif", ink, photometric="separated")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_stored(path).values, RGB, err_msg=path.name)


def test_black_ink_darkens_all_colours(tmp_path):
    ink = np.zeros((20, 20, 4), np.uint8)
    ink[..., 3] = np.arange(20) * 10
    tifffile.imwrite(tmp_path / "black.tif", ink, photometric="separated")
    np.testing.assert_array_equal(
        read_stored(tmp_path / "black.tif").values[0, :, 1], 255 - np.arange(20) * 10
    )


@pytest.mark.parametrize("name", ["raw.tif", "lzw.tif", "grey.jpg", "grey.png", "colour.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_as_viewers_show_it(tmp_path, name, orientation):
    path, exif = tmp_path / name, Image.Exif()
    exif[274] = orientation
    if name == "raw.tif":
        tifffile.imwrite(path, GREY, extratags=[(274, 3, 1, orientation, True)], metadata=None)
    elif name == "lzw.tif":
        save(path, GREY, compression="tiff_lzw", tiffinfo={274: orientation})
    else:
        options = {"lossless": True} if name.endswith("webp") else {}
        save(path, np.dstack([GREY] * 3) if options else GREY, exif=exif, **options)
    if name != "grey.jpg":  # Pillow turns a TIFF while it loads it, and an uncompressed one twice
        path_of_png = save(tmp_path / "reference.png", GREY, exif=exif)
    with Image.open(path if name == "grey.jpg" else path_of_png) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("L"))
    np.testing.assert_array_equal(np.rint(read_image(path, data_bar=0).image * 255), shown)


def test_a_turned_image_has_its_pixel_size_turned(tmp_path):
    how = {"resolution": (2e4, 1e4), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=[(274, 3, 1, 6, True)], **how)
    size = read_stored(tmp_path / "a.tif").size
    assert (size.width, size.height) == pytest.approx((1.0, 0.5))


def test_transparent_pixels_lie_outside_of_the_field_of_view(tmp_path):
    alpha = np.full_like(GREY, 255)
    alpha[:, :10] = 0
    save(tmp_path / "a.png", np.dstack([GREY, alpha]), "LA")
    tifffile.imwrite(
        tmp_path / "b.tif",
        np.dstack([RGB, alpha]),
        photometric="rgb",
        extrasamples=["unassalpha"],
    )
    for name in ("a.png", "b.tif"):
        with pytest.warns(UserWarning, match="400 pixels are transparent"):
            micrograph = read_image(tmp_path / name)
        np.testing.assert_array_equal(micrograph.valid, alpha > 0)


def test_colours_multiplied_by_their_opacity_are_divided_by_it(tmp_path):
    alpha = np.full_like(GREY, 128)
    stored = np.dstack([np.rint(RGB * (128 / 255)), alpha]).astype(np.uint8)
    for name, compression in (("a.tif", None), ("b.tif", "zlib")):
        how = {"photometric": "rgb", "extrasamples": ["assocalpha"], "compression": compression}
        tifffile.imwrite(tmp_path / name, stored, **how)
        values = read_stored(tmp_path / name).values
        assert np.abs(values.astype(int) - RGB).max() <= 1  # half a level, doubled


def test_a_jpeg_in_cmyk_is_as_bright_as_in_grey(tmp_path):
    smooth = np.tile(np.linspace(30, 220, 64).astype(np.uint8), (48, 1))
    save(tmp_path / "a.jpg", cmyk(smooth), "CMYK", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").image * 255 - smooth).max() < 6


def test_the_lightness_of_lab_is_the_grey(tmp_path):
    lab = np.dstack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)])
    tifffile.imwrite(tmp_path / "a.tif", lab, photometric="cielab")
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").values, GREY)


def test_the_mosaic_of_a_camera_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True)])
    with pytest.raises(ImageError, match="developing"):
        read_stored(tmp_path / "a.tif")


def test_numbers_of_palettes_and_of_white_is_zero_stay_numbers(tmp_path):
    ids = (GREY % 5).astype(np.uint8)
    image = Image.fromarray(ids, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0] + [0] * 753)
    image.save(tmp_path / "p.png")
    image.save(tmp_path / "p.tif")
    image.save(tmp_path / "q.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "w.tif", ids, photometric="miniswhite")
    for name in ("p.png", "p.tif", "q.tif", "w.tif"):
        np.testing.assert_array_equal(read_numbers(tmp_path / name)[0], ids, err_msg=name)


# --- pages -----------------------------------------------------------------------------------------------


def test_a_thumbnail_after_or_before_the_image_is_left_aside_and_said(tmp_path):
    for name, pages, chosen in (("a.tif", [GREY, GREY[::4, ::4]], 0), ("b.tif", [GREY[::2, ::2], GREY], 1)):
        with tifffile.TiffWriter(tmp_path / name) as tif:
            for page in pages:
                tif.write(page, metadata=None)
        with pytest.warns(UserWarning, match=f"page {chosen} of 2 was read, the others are smaller"):
            image = read_image(tmp_path / name).image
        np.testing.assert_array_equal(image, GREY / np.float32(255))


def test_of_channels_the_first_is_read_and_it_is_said(tmp_path):
    stack = np.stack([GREY, 255 - GREY])
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "b.ome.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    for name in ("a.tif", "b.ome.tif"):
        with pytest.warns(UserWarning, match="the first of 2 channels"):
            image = read_image(tmp_path / name).image
        np.testing.assert_array_equal(image, GREY / np.float32(255))
        second = read_image(tmp_path / name, page=1).image
        np.testing.assert_array_equal(second, (255 - GREY) / np.float32(255))


def test_a_stack_is_refused_with_the_option_that_chooses(tmp_path):
    stack = np.stack([GREY, GREY, GREY])
    tifffile.imwrite(tmp_path / "z.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(
        ImageError, match="has 3 pages; choose one with --page 0 to 2, take each with --page all"
    ):
        read_image(tmp_path / "z.tif")
    assert count_pages(tmp_path / "z.tif") == 3
    images = [Image.fromarray(page) for page in (GREY, 255 - GREY)]
    images[0].save(tmp_path / "z.gif", save_all=True, append_images=images[1:])
    with pytest.raises(ImageError, match="has 2 pages"):
        read_image(tmp_path / "z.gif")
    assert count_pages(tmp_path / "z.gif") == 2


# --- files that are none ---------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")  # opened, it would wait for ever
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        server.bind("socket.png")
        expected = {
            "pipe.png": "no regular file",
            "socket.png": "no regular file",
            "loop.png": "leads back to itself",
            "gone.png": "the file that this link leads to is gone",
        }
        for name, words in expected.items():
            for read in (read_stored, read_numbers, count_pages):
                with pytest.raises(ImageError, match=f"{name}: .*{words}"):
                    read(tmp_path / name)
    with pytest.raises(ImageError, match="no regular file"):
        read_stored("/dev/null")


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1", b"\x0a\5\1\x08"]
)
def test_no_decoder_starts_that_was_not_named(tmp_path, monkeypatch, head):
    """Pillow gives PostScript to Ghostscript, a program that runs what the file says."""

    def refuse(*arguments, **keywords):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    (tmp_path / "a.png").write_bytes(head + b"\0" * 600)
    for read in (read_stored, read_numbers, count_pages):
        with pytest.raises(ImageError, match=r"a\.png: is not an image"):
            read(tmp_path / "a.png")


def test_directories_that_lead_back_to_themselves_end(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, metadata=None)
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    path.write_bytes(data)
    (tmp_path / "b.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0")  # 14 bytes, no entry
    for name in ("a.tif", "b.tif"):
        with pytest.raises(ImageError, match="leads back to itself"):
            read_stored(tmp_path / name)


def changed_tag(path, code, value):
    """Overwrite the value of a tag of a little-endian TIFF in place."""
    with tifffile.TiffFile(path) as tif:
        offset, kind = tif.pages[0].tags[code].valueoffset, tif.pages[0].tags[code].dtype
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<H" if kind == 3 else "<I", value))


@pytest.mark.parametrize("compression", [None, "zlib", "packbits", "tiff_lzw"])
@pytest.mark.parametrize(("code", "value"), [(257, 43904), (273, 0), (279, 0), (257, 400), (256, 5200)])
def test_what_the_strips_do_not_hold_is_not_read_as_black(tmp_path, compression, code, value):
    path = tmp_path / "a.tif"
    if compression in (None, "zlib"):
        tifffile.imwrite(path, GREY, compression=compression, metadata=None)
    else:
        save(path, GREY, compression=compression)
    changed_tag(path, code, value)
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_stored(path)


def test_a_missing_tile_is_not_read_as_black(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(GREY, (4, 4)), tile=(64, 64), compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags[325].valueoffset
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\0\0\0\0")
    with pytest.raises(ImageError, match="tiles of the image are missing"):
        read_stored(path)


def test_the_size_in_the_header_is_checked_before_memory_is_taken(tmp_path):
    wide = np.zeros((2000, 2000), np.uint8)
    for name in ("a.png", "a.tif", "a.gif"):
        save(tmp_path / name, wide)
        with pytest.raises(ImageError, match=r"2000 x 2000 pixels by its header, more than 3 million"):
            read_stored(tmp_path / name, largest=3_000_000)
        assert read_stored(tmp_path / name, largest=4_000_000).values.shape[:2] == (2000, 2000)
    head = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0)
    )
    (tmp_path / "huge.png").write_bytes(head + b"\0\0\0\0" + b"\0" * 99)
    with pytest.raises(ImageError, match=r"huge\.png: "):
        read_stored(tmp_path / "huge.png")


# --- folders ---------------------------------------------------------------------------------------------


def test_what_a_folder_holds_besides_images_is_named(tmp_path):
    for name in (
        "b.png",
        "a.tif",
        "c.jp2",
        "notes.docx",
        "b.txt",
        ".hidden.png",
        "in/d.png",
        "in/deep/e.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    claim(tmp_path / "results", "segment")
    (tmp_path / "results" / "overlay.png").touch()
    files, notes = find_images([tmp_path])
    assert [file.name for file in files] == ["a.tif", "b.png"]
    assert notes == [
        f"{tmp_path}: not read, since they are no image files by their names: c.jp2, notes.docx",
        f"{tmp_path}: 1 folder inside left out; --recursive takes them too",
    ]
    files, notes = find_images([tmp_path, tmp_path / "b.png"], recursive=True)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "a.tif",
        "b.png",
        "in/d.png",
        "in/deep/e.png",
    ]
    assert len(notes) == 1


def test_links_in_circles_do_not_stop_the_search(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    save(tmp_path / "in" / "a.png", GREY)
    files, _ = find_images([tmp_path], recursive=True)
    assert [file.name for file in files] == ["loop.png", "a.png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.docx").touch()
    with pytest.raises(InputError, match=r"holds no image.*notes\.docx"):
        find_images([tmp_path / "empty"])


# --- electron microscopes' own formats -------------------------------------------------------------------


def write_mrc(path, values, angstroms):
    """An MRC file of signed 16 bits; its cell has lengths in Angstrom."""
    planes, height, width = values.shape
    head = bytearray(1024)
    struct.pack_into("<10i", head, 0, width, height, planes, 1, 0, 0, 0, width, height, planes)
    struct.pack_into("<6f", head, 40, width * angstroms, height * angstroms, planes * angstroms, 90, 90, 90)
    struct.pack_into("<3i", head, 64, 1, 2, 3)
    head[208:216] = b"MAP \x44\x44\0\0"
    path.write_bytes(bytes(head) + values.astype("<i2").tobytes())


def test_files_of_microscopes_say_which_package_reads_them(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rsciio", None)
    for suffix in ("dm3", "dm4", "emd", "ser", "mrc"):
        (tmp_path / f"a.{suffix}").write_bytes(b"anything")
        with pytest.raises(ImageError, match=rf"\.{suffix} files need .*pip install 'microlab\[formats\]'"):
            read_stored(tmp_path / f"a.{suffix}")


def test_an_mrc_file_is_read_with_its_pixel_size(tmp_path):
    pytest.importorskip("rsciio")
    values = np.random.default_rng(0).integers(-900, 900, (1, 40, 52))
    write_mrc(tmp_path / "a.mrc", values, 25.0)
    stored = read_stored(tmp_path / "a.mrc")
    np.testing.assert_array_equal(stored.values, values[0])
    assert stored.size.width == pytest.approx(0.0025)
    write_mrc(tmp_path / "stack.mrc", np.concatenate([values, -values]), 25.0)
    with pytest.raises(ImageError, match="has 2 pages"):
        read_stored(tmp_path / "stack.mrc")
    np.testing.assert_array_equal(read_stored(tmp_path / "stack.mrc", page=1).values, -values[0])
    (tmp_path / "bad.dm3").write_bytes(b"nothing" * 9)
    with pytest.raises(ImageError, match=r"bad\.dm3: is damaged"):
        read_stored(tmp_path / "bad.dm3")


def signal(data, units, navigate=0):
    """What RosettaSciIO returns for a file."""
    axes = [{"units": unit, "scale": 2.0, "navigate": k < navigate} for k, unit in enumerate(units)]
    return {"data": data, "axes": axes}


def test_signals_become_images_and_spectra_do_not(tmp_path, monkeypatch):
    """The reader itself is RosettaSciIO's; here a stand-in returns what its documents say."""
    colours = np.zeros((40, 52), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = GREY
    cases = {
        "image": ([signal(GREY, ["nm", "nm"])], GREY, 0.002),
        "diffraction": ([signal(GREY, ["1/nm", "1/nm"])], GREY, None),
        "map": ([signal(GREY, ["µm", "µm"], navigate=2)], GREY, 2.0),
        "colours": ([signal(colours, ["nm", "nm"])], np.dstack([GREY * 0, GREY, GREY * 0]), 0.002),
        "with a spectrum": ([signal(np.arange(9), ["eV"]), signal(GREY, ["nm", "nm"])], GREY, 0.002),
    }
    for name, (signals, values, micrometres) in cases.items():
        images = [plane for one in signals if (plane := formats._as_images(one)) is not None]
        monkeypatch.setattr(formats, "_planes", lambda path, images=images: images)
        (tmp_path / "a.dm4").write_bytes(b"anything")
        stored = read_stored(tmp_path / "a.dm4")
        np.testing.assert_array_equal(stored.values, values, err_msg=name)
        assert (stored.size.width if stored.size else None) == micrometres, name
