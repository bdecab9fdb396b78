"""Pixel sizes of the makers' files and of others, in order of trust; the files follow the makers' layouts."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import tifffile
from pictures import save, tagged, text_tag

from microlab.data.images import read_image
from microlab.data.masks import read_label_image
from microlab.data.pixel_size import micrometres

GREY = np.random.default_rng(0).integers(0, 256, (64, 80)).astype(np.uint8)


def size_of(path):
    """Pixel size of a file in micrometres, who said it, and what was said about it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        micrograph = read_image(path, data_bar=0)
    notes = " ".join(str(one.message) for one in said)
    labels = read_label_image(save_mask(path))  # a mask with these tags
    assert (labels.size.width if labels.size else None) == micrograph.pixel_size
    return micrograph.pixel_size, micrograph.pixel_size_source, notes


def save_mask(path):
    """The same file with grains in place of the picture."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        pytest.skip("only TIFF files are rewritten")
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].dataoffsets[0]
    grains = np.full(GREY.shape, 255, np.uint8)
    grains[::8] = grains[:, ::8] = 0
    data = bytearray(path.read_bytes())
    data[place : place + grains.size] = grains.tobytes()
    path.write_bytes(data)
    return path


def described(path, text, resolution=None, unit=1, tags=()):
    how = {} if resolution is None else {"resolution": (resolution,) * 2, "resolutionunit": unit}
    return tagged(path, GREY, [text_tag(270, text), *tags], **how)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        *(
            (name, 1.0)
            for name in ("um", "µm", "μm", "\\u00B5m", "micron", "microns", "micrometer", "Micrometres")
        ),
        *((name, 1e-3) for name in ("nm", "nanometer", "nanometers", "nanometre", "NM")),
        *((name, 1e-4) for name in ("Å", "\u212b", "angstrom", "Angstroms", "ångström")),
        *((name, 1e3) for name in ("mm", "millimeter", "millimetres")),
        *((name, 1e6) for name in ("m", "meter", "metres")),
        *((name, 1e4) for name in ("cm", "centimeter")),
        *((name, 25400.0) for name in ("inch", "inches", '"', "in")),
        ("pm", 1e-6),
        ("Âµm", 1.0),
        *((name, None) for name in ("", "pixel", "px", "1/nm", "um2", "nm^-1", "s", "None", "mrad")),
    ],
)
def test_units_in_all_spellings(unit, expected):
    assert micrometres(unit) == expected


# --- makers ----------------------------------------------------------------------------------------------


def fei(path, columns, rows, metres=5e-8, values=GREY):
    text = (
        f"[User]\r\nUser=x\r\n[Scan]\r\nPixelWidth={metres}\r\nPixelHeight={metres}\r\n"
        f"[Image]\r\nResolutionX={columns}\r\nResolutionY={rows}\r\n"
    )
    return tagged(path, values, [text_tag(34682, text)])


def test_fei_and_a_file_of_it_that_was_resized_or_cropped(tmp_path):
    assert size_of(fei(tmp_path / "a.tif", 80, 64)) == (pytest.approx(0.05), "FEI tag", "")
    size, source, said = size_of(fei(tmp_path / "half.tif", 160, 128))
    assert (size, source) == (pytest.approx(0.1), "FEI tag")
    assert "resized" in said
    size, _, said = size_of(fei(tmp_path / "part.tif", 160, 320))
    assert size == pytest.approx(0.05)
    assert "160 x 320" in said
    text = "[EBeam]\r\nHFW=4e-06\r\nVFW=3.2e-06\r\n[Image]\r\nResolutionX=80\r\nResolutionY=64\r\n"
    assert size_of(tagged(tmp_path / "hfw.tif", GREY, [text_tag(34680, text)]))[0] == pytest.approx(0.05)


PHENOM = (
    '<?xml version="1.0" encoding="UTF-8"?><FeiImage xmlns:xsd="http://www.w3.org/2001/XMLSchema"><samplePosition>'
    '<x>0</x></samplePosition><pixelWidth unit="{unit}">{size}</pixelWidth><pixelHeight unit="{unit}">{size}'
    "</pixelHeight><databarHeight>{bar}</databarHeight></FeiImage>"
)


def test_phenom_in_tiff_and_in_jpeg_with_its_data_bar(tmp_path):
    path = tagged(tmp_path / "a.tif", GREY, [text_tag(34683, PHENOM.format(unit="nm", size=50, bar=12))])
    assert read_image(path).data_bar_height == 12
    assert size_of(path)[:2] == (pytest.approx(0.05), "Phenom tag")
    jpeg = save(tmp_path / "b.jpg", GREY, quality=95)
    jpeg.write_bytes(jpeg.read_bytes() + PHENOM.format(unit="um", size=0.05, bar=0).encode())
    assert read_image(jpeg).pixel_size == pytest.approx(0.05)


def test_tescan_in_its_tag_and_beside_the_image(tmp_path):
    text = "[MAIN]\r\nDate=2020\r\nPixelSizeX=5e-008\r\nPixelSizeY=5e-008\r\n[SEM]\r\nDetector=SE\r\n"
    path = tagged(tmp_path / "a.tif", GREY, [text_tag(50431, b"\xff\xd8thumbnail\xff\xd9\0" + text.encode())])
    assert size_of(path)[:2] == (pytest.approx(0.05), "Tescan tag")
    for picture, beside in (("b.png", "b.hdr"), ("c.png", "c-png.hdr"), ("d.png", "D.HDR")):
        (tmp_path / beside).write_text(text)
        save(tmp_path / picture, GREY)
        assert read_image(tmp_path / picture).pixel_size == pytest.approx(0.05)


def test_gatan_unless_it_is_a_diffraction_pattern(tmp_path):
    def gatan(unit):
        tags = [text_tag(code, unit) for code in (65003, 65004)]
        return [*tags, (65009, 12, 1, 50.0), (65010, 12, 1, 50.0)]

    assert size_of(tagged(tmp_path / "a.tif", GREY, gatan("nm")))[:2] == (pytest.approx(0.05), "Gatan tag")
    assert size_of(tagged(tmp_path / "b.tif", GREY, gatan("1/nm")))[0] is None
    assert size_of(tagged(tmp_path / "c.tif", GREY, gatan("µm".encode("latin-1"))))[0] == pytest.approx(50)


def test_olympus_sis(tmp_path):
    """The tag points to a structure that points to another; sizes in it are powers of ten times a number."""
    path = tagged(tmp_path / "a.tif", GREY, [(33560, 4, 1, 8)])
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack("<HHI", 33560, 4, 1)) + 8
    start = len(data) + len(data) % 2
    data += b"\0" * (start - len(data))
    head = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 12, 1, 1, 120, b"name", 1)
    struct.pack_into("<I", data, place, start)
    data += head + struct.pack("<hhI", 1, 1, start + len(head) + 8)
    data += struct.pack("<10xhdd8xd2x34s32s", -9, 50.0, 50.0, 1e4, b"camera", b"picture") + b"\0" * 9
    path.write_bytes(data)
    assert size_of(path)[:2] == (pytest.approx(0.05), "Olympus SIS tag")


SIGHTX = (
    "<TemReporter><Eos><EosMode>{mode}</EosMode></Eos><ImageFormingSystem><ModeString>{imaging}</ModeString>"
    "<SelectorValue>40000</SelectorValue></ImageFormingSystem></TemReporter>"
)


def test_sightx_divides_the_pitch_of_its_camera_by_the_magnification(tmp_path):
    def sightx(name, mode, imaging):
        text = SIGHTX.format(mode=mode, imaging=imaging)
        return described(tmp_path / name, text, 2000.0, 3, [text_tag(271, "JEOL Ltd.")])

    size, source, _ = size_of(sightx("a.tif", "eosTEM", "MAG"))
    assert (size, source) == (pytest.approx(5 / 40000), "JEOL SightX description")
    assert size_of(sightx("b.tif", "eosTEM", "DIFF"))[0] is None
    assert size_of(sightx("c.tif", "eosASID", "MAG"))[0] is None


HITACHI = "[SemImageFile]\r\nInstructName=S4800\r\nDataSize=80x64\r\nPixelSize=50\r\nMagnification=5000\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize(("image", "beside"), [("a.tif", "a.txt"), ("B.TIF", "B.TXT"), ("c.tif", "C.Txt")])
def test_hitachi_in_any_case_and_encoding(tmp_path, encoding, image, beside):
    tagged(tmp_path / image, GREY, [])
    (tmp_path / beside).write_bytes(HITACHI.encode(encoding))
    assert size_of(tmp_path / image)[:2] == (pytest.approx(0.05), f"Hitachi {beside}")


def test_side_files_of_an_image_that_was_resized(tmp_path):
    tagged(tmp_path / "a.tif", GREY, [])
    (tmp_path / "a.txt").write_text(HITACHI.replace("80x64", "1280x1024"))
    size, _, said = size_of(tmp_path / "a.tif")
    assert size == pytest.approx(0.8)
    assert "resized" in said
    tagged(tmp_path / "b.tif", GREY, [])
    jeol = "$CM_FULL_SIZE 160 128\r\n$$SM_MICRON_BAR 80\r\n$$SM_MICRON_MARKER 4µm\r\n"
    (tmp_path / "b.txt").write_bytes(jeol.encode("latin-1"))
    assert size_of(tmp_path / "b.tif")[0] == pytest.approx(0.1)


def test_a_text_beside_an_image_that_speaks_of_something_else_is_left_alone(tmp_path):
    tagged(tmp_path / "a.tif", GREY, [])
    (tmp_path / "a.txt").write_text("polished with 1 um diamond\n")
    assert size_of(tmp_path / "a.tif")[0] is None


# --- OME -------------------------------------------------------------------------------------------------


def ome(path, attributes, more=""):
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>{more}'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="80" SizeY="64" '
        f'SizeZ="1" SizeC="1" SizeT="1" {attributes}><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        "<TiffData/></Pixels></Image></OME>"
    )
    tifffile.imwrite(path, GREY, metadata=None, description=text.encode())
    return path


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("µm", 0.05),
        ("&#181;m", 0.05),
        ("&#xB5;m", 0.05),
        ("&micro;m", 0.05),
        ("nm", 50),
        ("Å", 500),
        ("mm", 5e-5),
    ],
)
def test_ome_in_any_spelling_of_xml(tmp_path, unit, value):
    text = " ".join(f'PhysicalSize{axis}="{value}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")
    assert size_of(ome(tmp_path / "a.ome.tif", text))[:2] == (pytest.approx(0.05), "OME-XML")
    assert size_of(ome(tmp_path / "b.ome.tif", text.replace('"', "'")))[0] == pytest.approx(0.05)


def test_ome_without_a_unit_is_micrometres_and_with_a_strange_one_unknown(tmp_path):
    assert size_of(ome(tmp_path / "a.ome.tif", 'PhysicalSizeX="0.05" PhysicalSizeY="0.05"'))[0] == 0.05
    text = " ".join(f'PhysicalSize{axis}="1" PhysicalSize{axis}Unit="reference frame"' for axis in "XY")
    assert size_of(ome(tmp_path / "b.ome.tif", text))[0] is None


def test_xml_that_would_fill_the_memory_is_not_parsed(tmp_path):
    bomb = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{k} "{f"&a{k - 1 if k else str()};" * 10}">' for k in range(9)
    )
    text = 'PhysicalSizeX="0.05" PhysicalSizeY="0.05" Name="&a8;"'
    assert size_of(ome(tmp_path / "a.ome.tif", text, bomb + "]>"))[0] is None


# --- ImageJ and plain tags -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "resolution", "tag", "expected"),
    [
        ("micrometers", 20.0, 1, 0.05),
        ("nanometer", 0.02, 1, 0.05),
        ("inch", 300.0, 2, None),
        ("inch", 72.0, 2, None),
        ("cm", 118.11, 3, None),
        ("inch", 508000.0, 2, 0.05),
        ("cm", 200000.0, 3, 0.05),
        ("mm", 20.0, 1, 50.0),
        ("mm", 300 / 25.4, 1, None),
        ("pixel", 1.0, 1, None),
    ],
)
def test_imagej_with_a_unit_of_length_but_never_a_print_resolution(tmp_path, unit, resolution, tag, expected):
    path = described(tmp_path / "a.tif", f"ImageJ=1.54f\nunit={unit}\n", resolution, tag)
    assert size_of(path)[0] == (None if expected is None else pytest.approx(expected))


def test_the_source_of_a_plain_tag_that_may_be_a_cameras_pitch_is_questioned(tmp_path):
    path = described(tmp_path / "a.tif", "", 1e4 / 6.45, 3)
    size, source, said = size_of(path)
    assert (size, source) == (pytest.approx(6.45), "resolution tags")
    assert "camera" in said
    assert size_of(described(tmp_path / "b.tif", "", 1e4 / 0.05, 3)) == (
        pytest.approx(0.05),
        "resolution tags",
        "",
    )


def test_the_maker_is_trusted_before_ome_before_imagej_before_plain_tags(tmp_path):
    text = "ImageJ=1.54f\nunit=um\n"
    path = described(tmp_path / "a.tif", text, 5.0, 1)
    assert size_of(path)[:2] == (pytest.approx(0.2), "ImageJ")
    (tmp_path / "a.txt").write_text(HITACHI)
    assert size_of(path)[:2] == (pytest.approx(0.05), "Hitachi a.txt")
    tags = [text_tag(50431, "PixelSizeX=3e-8\nPixelSizeY=3e-8\n")]
    assert size_of(described(path, text, 5.0, 1, tags))[:2] == (pytest.approx(0.03), "Tescan tag")


def test_damaged_entries_are_no_entries(tmp_path):
    path = described(
        tmp_path / "a.tif", "ImageJ=1.54f\nunit=um\n", 20.0, 1, [text_tag(50431, "PixelSizeX=1e\n")]
    )
    assert size_of(path)[:2] == (pytest.approx(0.05), "ImageJ")
    broken = described(
        tmp_path / "b.tif", "ImageJ=1.54f\nunit=um\n", 20.0, 1, [text_tag(34683, "<FeiImage><pixelW")]
    )
    assert size_of(broken)[0] == pytest.approx(0.05)


def test_labels_of_pixels_that_are_not_square_have_no_pixel_size_and_it_is_said(tmp_path):
    labels = np.zeros((64, 80), np.uint16)
    labels[2:30], labels[34:60], labels[61:63] = 1, 2, 3
    tifffile.imwrite(tmp_path / "a.tif", labels, imagej=True, resolution=(10, 5), metadata={"unit": "um"})
    image = read_label_image(tmp_path / "a.tif")
    assert image.size is None
    assert any("not square" in note for note in image.notes)
