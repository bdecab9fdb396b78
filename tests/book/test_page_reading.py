"""The page that segments in the browser reads files as the library does, and writes what it reads."""

from __future__ import annotations

import base64
import re
import struct
import warnings
import zlib

import browse_site
import build_page
import check_site
import numpy as np
import pytest
import tifffile
from pictures import polycrystal, save, squares, tagged, text_tag
from PIL import Image, ImageCms, ImageDraw

from microlab.data import datasets, formats, images
from microlab.data.images import read_image, read_labels

pytestmark = pytest.mark.slow

PICTURE = polycrystal(120)[0]
GREY = np.rint(PICTURE * 255).astype(np.uint8)[:90]
DEEP = np.rint(PICTURE * 65535).astype(np.uint16)[:90]
RGB = np.stack([GREY, 255 - np.roll(GREY, 9, 0) // 2, np.roll(GREY, 9, 1)], -1)
ALPHA = np.where(np.arange(GREY.shape[1]) < 30, 0, 200).astype(np.uint8) + 0 * GREY
FLOAT = PICTURE[:90].astype(np.float32)

READ = """async ([name, options]) => {
  const {readImage} = await import("./read.js");
  const text = (array, step) => {
    const some = step === 1 ? array : array.filter((_, i) => i % step === 0);
    const raw = new Uint8Array(some.buffer, some.byteOffset, some.byteLength), parts = [];
    for (let i = 0; i < raw.length; i += 9000) parts.push(String.fromCharCode(...raw.subarray(i, i + 9000)));
    return btoa(parts.join(""));
  };
  const file = await fetch("file", {cache: "no-store"});
  try {
    const read = await readImage(await file.arrayBuffer(), name, options);
    for (const part of [read.image, read.valid]) {
      if (part) part.step = part.data.length > 300_000 ? 7 : 1;
      if (part) part.data = text(part.data, part.step);
    }
    return read;
  } catch (error) {
    return {refused: error.name === "ImageError" ? error.message : error.stack};
  }
}"""


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):
    """A page in the folder that tools/build_page.py makes; a request to another site would fail."""
    folder = tmp_path_factory.mktemp("try")
    build_page.write_scripts(folder)
    (folder / "empty.html").write_text("<!doctype html><title>t</title>")
    with browse_site.serve(folder) as home:
        page = browser.new_page()
        page.route(
            "**/*", lambda route: route.continue_() if route.request.url.startswith(home) else route.abort()
        )
        page.goto(f"{home}empty.html")
        page.folder = folder
        yield page
        page.close()


def in_page(tab, path, **options):
    """What the page reads from a file; of large images every seventh pixel."""
    (tab.folder / "file").write_bytes(path.read_bytes())
    read = tab.evaluate(READ, [path.name, options])
    for key, dtype in (("image", np.float32), ("valid", np.uint8)):
        if read.get(key):
            part = read[key]
            part["data"] = np.frombuffer(base64.b64decode(part["data"]), dtype)
    return read


def assert_same(tab, path, atol=1e-6, **options):
    """The page and the library read the same from a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        library = read_image(path, **options)
    names = {"data_bar": "dataBar"}
    read = in_page(tab, path, **{names.get(key, key): value for key, value in options.items()})
    assert "refused" not in read, read["refused"]
    assert read["dataBar"] == {"top": library.data_bar_top, "bottom": library.data_bar_height}
    image, valid = read["image"], read["valid"]
    assert (image["height"], image["width"]) == library.image.shape
    expected = library.image.ravel()[:: image["step"]]
    np.testing.assert_allclose(image["data"], expected, rtol=0, atol=atol)
    assert (valid is None) == (library.valid is None)
    if valid:
        np.testing.assert_array_equal(valid["data"], library.valid.ravel()[:: valid["step"]])
    assert read["pixelSizeSource"] == library.pixel_size_source
    assert read["pixelSize"] == (library.pixel_size and pytest.approx(library.pixel_size, rel=1e-6))
    said = [str(w.message).removeprefix(f"{path}: ") for w in caught if str(path) in str(w.message)]
    without_remedy = [re.sub(r"(; [^;]*--.*|, or give --.*)$", "", line) for line in said]
    assert len(read["notes"]) == len(said), (read["notes"], said)
    for note, line in zip(read["notes"], without_remedy):
        assert note.startswith(line)
    return read


def png(path, samples, kind, depth, more=(), interlaced=True):
    """A PNG as its standard has it, with the kinds that Pillow does not write; samples (H, W, channels)."""
    height, width = samples.shape[:2]
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    lines = b""
    for x, y, right, down in passes if interlaced else [(0, 0, 1, 1)]:
        for row in samples[y::down, x::right]:
            bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1]) & 1
            lines += b"\0" + np.packbits(bits.astype(np.uint8)).tobytes() if row.size else b""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks))


def coloured_palette(path, **options):
    image = Image.fromarray(GREY // 4, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 192).astype(np.uint8).tobytes())
    image.save(path, **options)


def oriented(path, orientation, **options):
    exif = Image.Exif()
    exif[274] = orientation
    save(path, options.pop("values", GREY), exif=exif, **options)


def bits_tiff(path, bits, kind=1):
    """Grey of fewer or more bits than whole bytes, uncompressed."""
    height, width = GREY.shape
    samples = DEEP >> (16 - bits)
    rows = [np.packbits(((row[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)) for row in samples]
    data = b"".join(row.tobytes() for row in rows)
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, kind),
        (273, 8),
        (277, 1),
        (278, height),
    ]
    tags += [(279, len(data))]
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
    place = 8 + len(data)
    tail = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(b"II*\0" + struct.pack("<I", place) + data + tail)


def tiff(values, **options):
    return lambda path: tifffile.imwrite(path, values, **{"metadata": None, **options})


def deflated(values, **options):
    return tiff(values, compression="zlib", predictor=True, rowsperstrip=7, **options)


GREY3 = np.dstack([GREY] * 3)
INK = np.dstack([255 - RGB, GREY // 3])
FILES = {  # name -> function that writes the file
    "grey.png": lambda p: save(p, GREY),
    "deep.png": lambda p: save(p, DEEP),
    "12 bits.png": lambda p: save(p, DEEP // 16),
    "colour.png": lambda p: save(p, RGB),
    "grey as colour.png": lambda p: save(p, GREY3),
    "alpha.png": lambda p: save(p, np.dstack([RGB, ALPHA])),
    "grey alpha.png": lambda p: save(p, np.dstack([GREY, ALPHA]), "LA"),
    "palette.png": coloured_palette,
    "palette with a hole.png": lambda p: coloured_palette(p, transparency=bytes(range(0, 250, 5))),
    "one transparent grey.png": lambda p: save(p, GREY, transparency=int(GREY[0, 0])),
    "one transparent colour.png": lambda p: save(p, RGB, transparency=tuple(map(int, RGB[0, 0]))),
    "1 bit.png": lambda p: save(p, GREY > 128),
    "2 bits.png": lambda p: png(p, GREY[..., None] // 64, 0, 2, interlaced=False),
    "4 bits.png": lambda p: png(p, GREY[..., None] // 16, 0, 4, interlaced=False),
    "interlaced 1 bit.png": lambda p: png(p, GREY[..., None] // 128, 0, 1),
    "interlaced 4 bits.png": lambda p: png(p, GREY[..., None] // 16, 0, 4),
    "interlaced.png": lambda p: png(p, GREY[..., None], 0, 8),
    "interlaced deep.png": lambda p: png(p, DEEP[..., None], 0, 16),
    "interlaced colour.png": lambda p: png(p, RGB, 2, 8),
    "deep colour.png": lambda p: png(p, RGB.astype(int) * 257 - (RGB > 99) * 99, 2, 16),
    "deep grey alpha.png": lambda p: png(p, np.dstack([DEEP, ALPHA.astype(np.uint16) * 256]), 4, 16),
    "deep alpha.png": lambda p: png(p, np.dstack([RGB, ALPHA]).astype(int) * 256 + 7, 6, 16),
    "gamma.png": lambda p: png(p, GREY[..., None], 0, 8, [(b"gAMA", struct.pack(">I", 99000))]),
    "turned.png": lambda p: oriented(p, 6),
    "raw.tif": tiff(GREY),
    "raw deep.tif": tiff(DEEP),
    "big endian.tif": tiff(DEEP, byteorder=">"),
    "big.tif": tiff(DEEP, bigtiff=True, byteorder=">", tile=(32, 48)),
    "deflate.tif": deflated(GREY),
    "deflate deep.tif": deflated(DEEP),
    "deflate big endian.tif": deflated(DEEP, byteorder=">"),
    "deflate colour.tif": deflated(RGB, photometric="rgb"),
    "deflate 32 bits.tif": deflated(DEEP.astype(np.int32) * 9 - 70000),
    "tiles.tif": tiff(GREY, tile=(32, 16), compression="zlib", predictor=True),
    "tiles colour.tif": tiff(RGB, tile=(32, 32), photometric="rgb"),
    "lzw.tif": lambda p: save(p, GREY, compression="tiff_lzw"),
    "lzw deep.tif": lambda p: save(p, DEEP, compression="tiff_lzw"),
    "lzw predictor.tif": lambda p: save(p, DEEP, compression="tiff_lzw", tiffinfo={317: 2}),
    "lzw even.tif": lambda p: save(p, np.repeat(GREY[:, :1] // 9, 5000, 1), compression="tiff_lzw"),
    "packbits.tif": lambda p: save(p, GREY // 32 * 32, compression="packbits"),
    "white is zero.tif": tiff(255 - GREY, photometric="miniswhite"),
    "white is zero deep.tif": tiff(65535 - DEEP, photometric="miniswhite"),
    "white is zero float.tif": tiff(FLOAT, photometric="miniswhite"),
    "white is zero signed.tif": tiff((DEEP.astype(int) - 30000).astype(np.int16), photometric="miniswhite"),
    "uint32.tif": tiff(DEEP.astype(np.uint32) * 60000),
    "int8.tif": tiff((GREY.astype(int) - 128).astype(np.int8)),
    "int16.tif": tiff((DEEP.astype(int) - 30000).astype(np.int16)),
    "int32.tif": tiff(DEEP.astype(np.int32) * 9 - 70000),
    "float16.tif": tiff(FLOAT.astype(np.float16)),
    "float32.tif": tiff(FLOAT),
    "float32 big endian.tif": tiff(FLOAT * 900 - 70, byteorder=">"),
    "float64.tif": tiff(FLOAT.astype(np.float64) * 1e-3),
    "1 bit.tif": lambda p: bits_tiff(p, 1),
    "1 bit white.tif": lambda p: bits_tiff(p, 1, 0),
    "2 bits.tif": lambda p: bits_tiff(p, 2),
    "4 bits.tif": lambda p: bits_tiff(p, 4),
    "4 bits white.tif": lambda p: bits_tiff(p, 4, 0),
    "rgb.tif": tiff(RGB, photometric="rgb"),
    "rgb deep.tif": tiff(RGB.astype(np.uint16) * 200 + 9, photometric="rgb"),
    "planes.tif": tiff(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    "alpha.tif": tiff(np.dstack([RGB, ALPHA]), photometric="rgb", extrasamples=["unassalpha"]),
    "premultiplied.tif": tiff(
        np.dstack([np.rint(RGB * (200 / 255)).astype(np.uint8), ALPHA]),
        photometric="rgb",
        extrasamples=["assocalpha"],
        compression="zlib",
    ),
    "grey alpha.tif": tiff(
        np.dstack([GREY, ALPHA]),
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    ),
    "cmyk.tif": tiff(INK, photometric="separated"),
    "lab.tif": tiff(np.dstack([GREY, GREY, 255 - GREY]), photometric="cielab"),
    "palette.tif": coloured_palette,
    "palette lzw.tif": lambda p: coloured_palette(p, compression="tiff_lzw"),
    **{f"orientation {k}.tif": tiff(GREY, extratags=[(274, 3, 1, k, True)]) for k in (2, 3, 4, 5, 6, 7, 8)},
    "thumbnail.tif": lambda p: pages(p, [GREY, GREY[::4, ::4]]),
    "thumbnail first.tif": lambda p: pages(p, [GREY[::4, ::4], GREY]),
    "channels.tif": lambda p: tifffile.imwrite(
        p, np.stack([GREY, 255 - GREY]), imagej=True, metadata={"axes": "CYX"}
    ),
    "grey.bmp": lambda p: save(p, GREY),
    "colour.bmp": lambda p: save(p, RGB, dpi=(50800, 50800)),
    "palette.gif": coloured_palette,
    "turned.webp": lambda p: oriented(p, 6, values=RGB, lossless=True),
    "lossless.webp": lambda p: save(p, RGB, lossless=True),
}


def pages(path, images):
    with tifffile.TiffWriter(path) as tif:
        for values in images:
            tif.write(values, metadata=None)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_has_the_grey_levels_of_the_library(tab, tmp_path, name):
    FILES[name](tmp_path / name)
    assert_same(tab, tmp_path / name)


@pytest.mark.parametrize(
    "name", ["grey", "colour", "progressive", "turned", "cmyk", "profile", "in a TIFF", "RGB in a TIFF"]
)
def test_a_jpeg_is_within_two_levels_of_the_library(tab, tmp_path, name):
    smooth = np.rint(128 + 100 * np.sin(np.add.outer(np.arange(90) / 9, np.arange(120) / 7))).astype(np.uint8)
    path = tmp_path / f"{name}.jpg"
    if name == "grey":
        save(path, GREY, quality=90, dpi=(50800, 50800))
    elif name == "turned":
        oriented(path, 6, quality=90)
    elif name == "cmyk":
        save(path, np.dstack([255 - smooth] * 3 + [0 * smooth]), "CMYK", quality=95)
    elif name == "profile":  # of colours, which the browser would convert: sRGB with another gamma
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        changed = profile.replace(b"\0\2\x66\x66", b"\0\1\x66\x66")
        assert changed != profile
        save(path, np.dstack([smooth] * 3), quality=95, icc_profile=changed)
    elif name == "in a TIFF":
        path = save(tmp_path / "a.tif", RGB, compression="jpeg", quality=95)
    elif name == "RGB in a TIFF":  # with components 1, 2, 3, which otherwise mean YCbCr
        path = save(tmp_path / "a.tif", RGB, compression="jpeg", quality=95, tiffinfo={262: 2})
        data = path.read_bytes().replace(b"\x03R\x11\0G\x11\0B\x11\0", b"\3\1\x11\0\2\x11\0\3\x11\0")
        path.write_bytes(data.replace(b"\x03R\0G\0B\0", b"\3\1\0\2\0\3\0"))
    else:
        save(
            path, np.dstack([smooth, 255 - smooth // 2, smooth // 3]), quality=95, progressive=name[0] == "p"
        )
    assert_same(tab, path, atol=2.01 / 255)


# --- black and white levels, hot pixels, numbers for no value -------------------------------------------

EVEN = polycrystal(200)[1]  # the lines between grains without contrast


def with_values(values, *places):
    values = values.copy()
    for place, value in places:
        values[place] = value
    return values


ROWS, CORNER = slice(None, 20), (slice(None, 9), slice(None, 14))
RANGES = {
    "counts": (PICTURE * 60).astype(np.uint16),
    "hot": with_values(
        (PICTURE * 60).astype(np.uint16), ((50, 50), 65535), ((90, 7), 65535), ((0, 0), 65535)
    ),
    "hot float": with_values((PICTURE * 200).astype(np.float32), ((50, 50), 1e6)),
    "nodata": with_values((PICTURE * 200).astype(np.float32), (ROWS, -9999)),
    "two numbers and hot": with_values(
        (PICTURE * 200).astype(np.float32), (ROWS, -9999), (slice(-10, None), -32768), ((60, 60), 1e6)
    ),
    "nan": with_values(PICTURE.astype(np.float32), (CORNER, np.nan), ((60, 60), np.nan), ((61, 80), np.inf)),
    "signed": with_values((PICTURE * 3000).astype(np.int16), (CORNER, -32768)),
    "saturated": with_values((PICTURE * 900).astype(np.uint16), ((slice(60, 64), slice(20, 60)), 65535)),
    "bright spot": with_values((PICTURE * 900).astype(np.uint16), (CORNER, 1700), ((90, 7), 2600)),
    "even grains": np.where(EVEN, 60000, 30000).astype(np.uint16),
    "noisy grains": np.where(EVEN, 1000, 30000 + np.random.default_rng(0).normal(0, 15, EVEN.shape)).astype(
        np.uint16
    ),
    "small share": (PICTURE * 400 + 30000).astype(np.uint16),
    "small float": (PICTURE * 0.1 + 0.3).astype(np.float32),
    "colours": with_values((RGB * 100.0).astype(np.float32), (CORNER, -1e30), ((60, 60), np.nan)),
    "large": np.tile(with_values((PICTURE * 200).astype(np.float32), (CORNER, -9999)), (10, 10)),
    "large colours": np.tile(RGB.astype(np.uint16) * 30, (12, 10, 1)),
}


@pytest.mark.parametrize("name", RANGES)
def test_what_is_no_picture_is_found_as_in_the_library(tab, tmp_path, name):
    values = RANGES[name]
    tiff(values, photometric="rgb" if values.ndim == 3 else "minisblack")(tmp_path / "a.tif")
    assert_same(tab, tmp_path / "a.tif")


def test_the_number_that_a_file_names_for_no_value_counts(tab, tmp_path):
    values = with_values((PICTURE * 200).astype(np.float32), (CORNER, 100))
    tiff(values, extratags=[(42113, 2, 4, "100", True)])(tmp_path / "a.tif")
    assert assert_same(tab, tmp_path / "a.tif")["valid"]["data"].min() == 0


# --- data bar and crop ----------------------------------------------------------------------------------


def with_bar(height, background, rules):
    """A noisy field with a data bar as microscopes draw it, (300 + height, 400) uint8."""
    noise = np.clip(0.5 + 0.15 * np.random.default_rng(height).standard_normal((300, 400)), 0, 1)
    bar = Image.new("L", (400, height), background)
    draw = ImageDraw.Draw(bar)
    draw.text((4, 0.2 * height), "15.00 kV  10.0 mm  5 000 x  ETD  HFW 29.8 um", fill=255 - background)
    if rules:
        draw.rectangle((0, 0, 399, height - 1), outline=255 - background)
    return np.vstack([np.rint(noise * 255).astype(np.uint8), np.asarray(bar)])


@pytest.mark.parametrize("height", [13, 40])
@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("rules", [False, True])
def test_a_data_bar_is_cut_at_the_same_row(tab, tmp_path, height, background, rules):
    path = save(tmp_path / "a.png", with_bar(height, background, rules))
    assert assert_same(tab, path)["dataBar"]["bottom"] == height
    save(path, np.ascontiguousarray(with_bar(height, background, rules)[::-1]))
    assert assert_same(tab, path)["dataBar"]["top"] == height


def test_frames_dark_backgrounds_and_saturated_images_are_no_data_bars(tab, tmp_path):
    image = np.clip(0.5 + 0.15 * np.random.default_rng(0).standard_normal((300, 400)), 0, 1)
    half_dark = image.copy()
    half_dark[200:] = np.clip(image[200:] - 0.2, 0, 1)
    dark, saturated = np.clip(image - 0.45, 0, 1), np.clip((image - 0.5) * 20 + 0.5, 0, 1)
    faded = np.clip(image - np.linspace(0, 0.47, 300)[:, None], 0, 1)  # black below, and not all at once
    for case in (np.pad(image, 2), dark, saturated, half_dark, faded):
        path = save(tmp_path / "a.png", np.rint(case * 255).astype(np.uint8))
        assert assert_same(tab, path)["dataBar"] == {"top": 0, "bottom": 0}


def test_a_data_bar_can_be_given_and_a_part_can_be_read(tab, tmp_path):
    path = save(tmp_path / "a.png", with_bar(40, 0, True))
    for data_bar in (0, 25, "top:9"):
        assert_same(tab, path, data_bar=data_bar)
    for crop in ((7, 20, 300, 200), (0, 30, 400, 310)):
        assert_same(tab, path, crop=crop)
    text = "[Scan]\r\nPixelWidth=1e-8\r\nPixelHeight=1e-8\r\n[Image]\r\nResolutionX=120\r\nResolutionY=80\r\n"
    path = tagged(tmp_path / "fei.tif", GREY, [text_tag(34682, text)])
    assert assert_same(tab, path)["dataBar"]["bottom"] == 10
    assert_same(tab, path, crop=(0, 0, 100, 85))
    for options, words in (
        ({"dataBar": "left"}, "data bar must be"),
        ({"dataBar": "top"}, "no data bar was found at the top"),
        ({"crop": (7, 0, 120, 40)}, "does not lie in it"),
        ({"page": 3}, "pages run from 0 to 0"),
    ):
        assert words in in_page(tab, path, **options)["refused"]


# --- pixel size -----------------------------------------------------------------------------------------

FEI = "[Scan]\r\nPixelWidth={0}\r\nPixelHeight={0}\r\n[Image]\r\nResolutionX={1}\r\nResolutionY={2}\r\n"
ZEISS = "0\r\n0\r\n0\r\n9.9e-09\r\n1.0e+04\r\n6\r\nDP_ZOOM\r\nZoom = Off\r\n"
PHENOM = (
    '<?xml version="1.0"?><FeiImage><pixelWidth unit="nm">50</pixelWidth><pixelHeight unit="nm">50'
    "</pixelHeight><databarHeight>12</databarHeight></FeiImage>"
)
SIGHTX = (
    "<TemReporter><Eos><EosMode>eosTEM</EosMode></Eos><A><ModeString>{}</ModeString>"
    "<SelectorValue>40000</SelectorValue></A></TemReporter>"
)


def ome(value, unit, quote='"', more=""):
    sizes = " ".join(f'PhysicalSize{axis}="{value}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")
    text = (
        f'<?xml version="1.0"?>{more}<OME><Image ID="0"><Pixels DimensionOrder="XYZCT" Type="uint8" '
        f'SizeX="120" SizeY="90" SizeZ="1" SizeC="1" SizeT="1" {sizes}><TiffData/></Pixels></Image></OME>'
    )
    return [text_tag(270, text.replace('"', quote))], {}


def described(text, resolution=None, unit=1, tags=()):
    how = {} if resolution is None else {"resolution": np.broadcast_to(resolution, 2), "resolutionunit": unit}
    return [*([text_tag(270, text)] if text else []), *tags], how


def imagej(unit, resolution, tag=1, tags=()):
    return described(f"ImageJ=1.54f\nunit={unit}\n", resolution, tag, tags)


GATAN = [(65009, 12, 1, 50.0), (65010, 12, 1, 50.0)]
SIZES = {  # name -> private tags and options of a TIFF, and the size that is expected
    "FEI": (([text_tag(34682, FEI.format(5e-8, 120, 90))], {}), 0.05),
    "FEI resized": (([text_tag(34682, FEI.format(5e-8, 240, 180))], {}), 0.1),
    "FEI cropped": (([text_tag(34682, FEI.format(5e-8, 240, 480))], {}), 0.05),
    "FEI by its field": (
        (
            [
                text_tag(
                    34680,
                    "[EBeam]\r\nHFW=6e-06\r\nVFW=4.5e-06\r\n[Image]\r\nResolutionX=120\r\nResolutionY=90",
                )
            ],
            {},
        ),
        0.05,
    ),
    "Phenom": (([text_tag(34683, PHENOM)], {}), 0.05),
    "Zeiss": (
        ([text_tag(34118, ZEISS + "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 3.166 nm\r\n")], {}),
        0.003166,
    ),
    "Zeiss micro": (
        (
            [
                text_tag(
                    34118, (ZEISS + "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 3 µm\r\n").encode("cp1252")
                )
            ],
            {},
        ),
        3,
    ),
    "Zeiss old": (([text_tag(34118, ZEISS)], {}), 9.9e-3 * 1024 / 120),
    "Tescan": (
        ([text_tag(50431, b"\xff\xd8\xff\xd9\0[MAIN]\r\nPixelSizeX=5e-008\r\nPixelSizeY=5e-008\r\n")], {}),
        0.05,
    ),
    "Gatan": (([text_tag(65003, "nm"), text_tag(65004, "nm"), *GATAN], {}), 0.05),
    "Gatan diffraction": (([text_tag(65003, "1/nm"), text_tag(65004, "1/nm"), *GATAN], {}), None),
    "SightX": (described(SIGHTX.format("MAG"), 2000.0, 3, [text_tag(271, "JEOL Ltd.")]), 5 / 40000),
    "SightX diffraction": (described(SIGHTX.format("DIFF"), 2000.0, 3, [text_tag(271, "JEOL Ltd.")]), None),
    "OME": (ome(0.05, "µm"), 0.05),
    "OME number": (ome(50, "n&#109;", "'"), 0.05),
    "OME entity": (ome(0.05, "&micro;m"), 0.05),
    "OME angstrom": (ome(500, "Å"), 0.05),
    "OME strange": (ome(1, "reference frame"), None),
    "OME bomb": (ome(1, "µm", more="<!DOCTYPE b>"), None),
    **{
        f"ImageJ {unit}": (imagej(unit, 20.0), 0.05)
        for unit in ("um", "micron", "\\u00B5m", "Micrometres", "µm")
    },
    "ImageJ latin": (
        (
            [text_tag(270, "ImageJ=1.54f\nunit=µm\n".encode("latin-1"))],
            {"resolution": (20, 20), "resolutionunit": 1},
        ),
        0.05,
    ),
    "ImageJ nm": (imagej("nanometer", 0.02), 0.05),
    "ImageJ inch": (imagej("inch", 508000.0, 2), 0.05),
    "ImageJ pixel": (imagej("pixel", 1.0), None),
    "ImageJ print": (imagej("inch", 300.0, 2), None),
    "ImageJ print in cm": (imagej("cm", 118.11, 3), None),
    "ImageJ print in mm": (imagej("mm", 300 / 25.4), None),
    "tags": (described("", 1e4 / 0.05, 3), 0.05),
    "tags in inch": (described("", 25400 / 0.5, 2), 0.5),
    "camera": (described("", 1e4 / 6.45, 3), 6.45),
    "print": (described("", 300, 2), None),
    "no unit": (described("", 20000, 1), None),
    "not square": (described("", (2e4, 1e4), 3), None),
    "turned": (described("", (2e4, 1.999e4), 3, [(274, 3, 1, 6)]), 1e4 / 1.999e4),
    "maker first": (imagej("um", 5.0, 1, [text_tag(50431, "PixelSizeX=3e-8\nPixelSizeY=3e-8\n")]), 0.03),
    "damaged maker": (imagej("um", 20.0, 1, [text_tag(50431, "PixelSizeX=1e\n")]), 0.05),
    "damaged XML": (imagej("um", 20.0, 1, [text_tag(34683, "<FeiImage><pixelW")]), 0.05),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_pixel_size_is_that_of_the_library(tab, tmp_path, name):
    (tags, options), expected = SIZES[name]
    read = assert_same(tab, tagged(tmp_path / "a.tif", GREY, tags, **options))
    assert read["pixelSize"] == (expected and pytest.approx(expected, rel=1e-6))


def test_the_pixel_size_of_other_pictures_is_that_of_the_library(tab, tmp_path):
    for size, expected in ((0.05, 0.05), (6.45, 6.45), (84.7, None)):
        path = save(tmp_path / "a.png", GREY, dpi=(25400 / size,) * 2)
        assert assert_same(tab, path)["pixelSize"] == (expected and pytest.approx(expected, rel=1e-3))
    path = save(tmp_path / "a.jpg", GREY, quality=95)
    path.write_bytes(path.read_bytes() + PHENOM.encode())
    assert assert_same(tab, path, atol=2.01 / 255)["pixelSizeSource"] == "Phenom tag"


def test_olympus_sis(tab, tmp_path):
    path = tagged(tmp_path / "a.tif", GREY, [(33560, 4, 1, 8)])
    data = bytearray(path.read_bytes())
    start = len(data) + len(data) % 2
    struct.pack_into("<I", data, data.index(struct.pack("<HHI", 33560, 4, 1)) + 8, start)
    head = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 12, 1, 1, 120, b"name", 1)
    data += b"\0" * (start - len(data)) + head + struct.pack("<hhI", 1, 1, start + len(head) + 8)
    path.write_bytes(data + struct.pack("<10xhdd8xd2x34s32s", -9, 50.0, 50.0, 1e4, b"", b"") + b"\0" * 9)
    assert assert_same(tab, path)["pixelSizeSource"] == "Olympus SIS tag"


# --- what is refused ------------------------------------------------------------------------------------


def cut(write, length=900):
    def make(path):
        write(path)
        path.write_bytes(path.read_bytes()[:length])

    return make


def changed_tag(path, code, value):
    tifffile.imwrite(path, GREY, metadata=None)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags[code]
    with open(path, "r+b") as file:
        file.seek(tag.valueoffset)
        file.write(struct.pack("<H" if tag.dtype == 3 else "<I", value))


def huge_png(path):
    header = struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + b"\0" * 99)


def wrong_sum(path):
    coloured_palette(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PLTE") + 9] ^= 1
    path.write_bytes(data)


REFUSED = {  # name -> how the file is made, the words, whether the library refuses it too
    "empty.tif": (lambda p: p.touch(), "is empty (0 bytes)", True),
    "notes.png": (lambda p: p.write_text("grain size 5 um\n" * 9), "is not an image; give a PNG", True),
    "short.png": (lambda p: p.write_bytes(b"\x89P"), "is not an image", True),
    "photo.heic": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 90), "save it as JPEG", True),
    "a.dm3": (lambda p: p.write_bytes(b"\0\0\0\3" * 99), "export it as TIFF", True),
    "header.tif": (lambda p: p.write_bytes(b"II*\0" + b"\xff" * 40), "is damaged or cut short", True),
    "cycle.tif": (lambda p: p.write_bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), "leads back to itself", True),
    "cut.tif": (cut(tiff(GREY)), "is damaged or cut short", True),
    "cut lzw.tif": (cut(lambda p: save(p, GREY, compression="tiff_lzw")), "is damaged or cut short", True),
    "cut.png": (cut(lambda p: save(p, GREY)), "is damaged or cut short", True),
    "cut.jpg": (cut(lambda p: save(p, GREY)), "is damaged or cut short (it ends too early)", True),
    "cut.bmp": (cut(lambda p: save(p, RGB), 5000), "is damaged or cut short (it ends too early)", True),
    "cut.webp": (
        cut(lambda p: save(p, RGB, lossless=True)),
        "is damaged or cut short (it ends too early)",
        True,
    ),
    "rows.tif": (lambda p: changed_tag(p, 257, 43904), "is damaged or cut short", True),
    "no strip.tif": (lambda p: changed_tag(p, 273, 0), "strips of the image are missing", True),
    "wrong sum.png": (wrong_sum, "wrong checksum of chunk PLTE", True),
    "one.png": (
        lambda p: Image.new("L", (1, 1)).save(p),
        "is 1 x 1 pixels; a micrograph needs at least 16",
        True,
    ),
    "thin.tif": (tiff(GREY[:3]), "is 3 x 120 pixels", True),
    "nan.tif": (tiff(FLOAT * np.float32(np.nan)), "no pixel has a value", True),
    "complex.tif": (tiff(FLOAT.astype(np.complex64)), "save it as", True),
    "mosaic.tif": (
        tiff(GREY, photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True)]),
        "developing",
        True,
    ),
    "constant.png": (lambda p: save(p, GREY * 0 + 70), "has one grey level everywhere; check", False),
    "huge.png": (
        huge_png,
        "has 100000 x 100000 pixels by its header, more than 16 megapixels; crop it",
        True,
    ),
    "large.tif": (
        tiff(np.zeros((4097, 4096), np.uint8), compression="zlib"),
        "16 megapixels; crop it",
        False,
    ),
    "large.jpg": (lambda p: save(p, np.zeros((4097, 4096), np.uint8)), "16 megapixels; crop it", False),
    "large.gif": (lambda p: save(p, np.zeros((4097, 4096), np.uint8)), "16 megapixels; crop it", False),
    "large.bmp": (
        lambda p: p.write_bytes(b"BM" + struct.pack("<8xIIiiHHI", 54, 40, 9000, 9000, 1, 8, 0) + b"\0" * 99),
        "crop",
        True,
    ),
    "large.webp": (
        lambda p: save(p, np.zeros((4097, 4096, 3), np.uint8), lossless=True),
        "16 megapixels",
        False,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line_that_names_it(tab, tmp_path, name):
    make, words, too = REFUSED[name]
    path = tmp_path / name
    make(path)
    refused = in_page(tab, path)["refused"]
    assert refused.startswith(f"{name}: ")
    assert words in refused
    assert "\n" not in refused
    assert len(refused) < 190
    if too:
        with pytest.raises(images.ImageError):
            read_image(path)


def test_of_a_stack_the_first_page_is_read_and_it_is_said(tab, tmp_path):
    stack = np.stack([GREY, 255 - GREY, GREY])
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    read = in_page(tab, tmp_path / "a.tif")
    expected = read_image(tmp_path / "a.tif", page=0).image
    np.testing.assert_array_equal(read["image"]["data"], expected.ravel())
    assert read["notes"] == ["has 3 pages; the first was read, the others are not measured"]
    assert (read["pages"], read["page"]) == (3, 0)
    assert_same(tab, tmp_path / "a.tif", page=1)


# --- real micrographs, a worker -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(datasets.DATASETS))
def test_real_micrographs_are_read_as_by_the_library(tab, name):
    if not datasets.available(name):
        pytest.skip(f"{name} is not on this machine")
    paths = [path for path in datasets.fetch(name).values() if path.suffix.lower() in formats.PICTURES]
    for path in paths[:: max(1, len(paths) // 2)]:
        assert_same(tab, path, atol=2.01 / 255 if path.suffix.lower() in (".jpg", ".jpeg") else 1e-6)


def test_a_web_worker_reads_the_same(tab, tmp_path):
    code = """
      import {readImage} from "./read.js";
      onmessage = async ({data}) => postMessage((await readImage(...data)).image.data[999]);
    """
    ask = """async ([code, data, name]) => {
      const url = URL.createObjectURL(new Blob([code.replace("./", location.href.replace(/[^/]*$/, ""))],
        {type: "text/javascript"}));
      const worker = new Worker(url, {type: "module"});
      worker.postMessage([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer, name]);
      return new Promise((done, fail) => { worker.onmessage = (e) => done(e.data); worker.onerror = fail; });
    }"""
    for name, write in (
        ("a.tif", deflated(DEEP)),
        ("a.png", lambda p: save(p, GREY)),
        ("a.bmp", FILES["grey.bmp"]),
    ):
        write(tmp_path / name)
        data = base64.b64encode((tmp_path / name).read_bytes()).decode()
        expected = read_image(tmp_path / name).image.ravel()[999]
        assert tab.evaluate(ask, [code, data, name]) == pytest.approx(expected, abs=1e-6)


# --- results --------------------------------------------------------------------------------------------

WRITE = """async ([name, data, height, width, size]) => {
  const module = await import("./export.js");
  const labels = new Int32Array(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
  const blob = await module[name](labels, height, width, size);
  const bytes = new Uint8Array(await blob.arrayBuffer()), parts = [blob.type + " "];
  for (let i = 0; i < bytes.length; i += 9000) {
    parts.push(String.fromCharCode(...bytes.subarray(i, i + 9000)));
  }
  return btoa(parts.join(""));
}"""


def write_in_page(tab, path, function, labels, pixel_size=None):
    """Write the file that a function of export.js makes; returns its type."""
    data = base64.b64encode(labels.astype(np.int32).tobytes()).decode()
    result = base64.b64decode(tab.evaluate(WRITE, [function, data, *labels.shape, pixel_size]))
    kind, _, content = result.partition(b" ")
    path.write_bytes(content)
    return kind.decode()


@pytest.mark.parametrize("pixel_size", [None, 0.05, 3.1415926e-4, 90.1])
@pytest.mark.parametrize("largest", [144, 65535, 70000])
def test_labels_are_read_back_with_their_pixel_size(tab, tmp_path, pixel_size, largest):
    labels = squares()[:, :-1].astype(np.int32)
    labels[labels == 144] = largest
    path = tmp_path / "labels.tif"
    assert write_in_page(tab, path, "labelsTiff", labels, pixel_size) == "image/tiff"
    back, size = read_labels(path)
    np.testing.assert_array_equal(back, labels)
    if pixel_size is None or (
        largest > 65535 and pixel_size > 10
    ):  # without a unit, as the library writes it
        assert size is None
    else:
        assert size == pytest.approx(pixel_size, rel=1e-6)
    images.write_labels(tmp_path / "b.tif", labels, pixel_size=pixel_size)
    assert read_labels(tmp_path / "b.tif")[1] == (size and pytest.approx(size, rel=1e-6))
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].dtype == (np.int32 if largest > 65535 else np.uint16)
        assert tif.is_imagej == (largest <= 65535)
        assert (tif.imagej_metadata or {}).get("unit") == ("um" if tif.is_imagej and pixel_size else None)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image).astype(int), labels)


def test_the_coloured_picture_gives_the_labels_back_and_neighbours_differ(tab, tmp_path):
    labels = np.arange(400 * 500).reshape(400, 500)
    labels[7] = 0
    path = tmp_path / "labels.png"
    assert write_in_page(tab, path, "labelsPng", labels, 0.05) == "image/png"
    with Image.open(path) as image:
        assert image.mode == "RGB"
        assert image.info["dpi"] == pytest.approx((508000, 508000), rel=1e-6)
        rule = re.search(r"\* (\d+) mod 2\^(\d+)", image.info["Comment"])
        colours = np.asarray(image).astype(int)
    code = (colours - 128) @ [1, 128, 16384] * int(rule[1]) % 2 ** int(rule[2])
    np.testing.assert_array_equal(np.where(colours[..., 0] == 0, 0, code), labels)
    assert colours[labels == 0].max() == 0
    assert colours[labels > 0].min() >= 128
    for step in (1, 7, 399):
        assert np.abs(colours[8:, step:] - colours[8:, :-step]).max(-1).min() >= 10
    decode = """async (colours) => {
      const {labelOf} = await import("./export.js");
      return colours.map((colour) => labelOf(...colour));
    }"""
    assert tab.evaluate(decode, colours[9, ::50].tolist()) == labels[9, ::50].tolist()


def test_the_mask_is_exact_grey(tab, tmp_path):
    boundary = squares() == 0
    write_in_page(tab, tmp_path / "mask.png", "maskPng", boundary, 0.25)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), boundary * 255)
    assert read_labels(tmp_path / "mask.png")[1] == pytest.approx(0.25, rel=1e-6)


def test_a_file_is_saved_under_its_name(tab, tmp_path):
    with tab.expect_download() as waiting:
        tab.evaluate("""async () => {
          const {download} = await import("./export.js");
          download("mask of a.png", new Blob(["content"]));
        }""")
    assert waiting.value.suggested_filename == "mask of a.png"
    assert waiting.value.path().read_text() == "content"


def test_the_scripts_name_no_other_site(tmp_path):
    build_page.write_scripts(tmp_path)
    for script in tmp_path.glob("*.js"):
        assert check_site.foreign_addresses(script.read_text(encoding="utf-8")) == []
