"""Writes the images beside it, and shown.png: what Pillow shows of each, in order of file names.

    pip install pillow numpy && python make.py

All are 16 x 16, so that no loader scales them. shown.png has them one below the other: rotated as EXIF
says, transparency over white, 16-bit values by their high byte.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
SIDE = 16


def picture():
    """Smooth, coloured, and different under each of the eight orientations."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    red = 40 + 12 * x
    green = 220 - 11 * y
    blue = 128 + 90 * np.sin((x + 2 * y) / 7)
    return Image.fromarray(np.stack([red, green, blue], -1).round().astype("u1"))


def png(name, samples, colour_type, depth=8, interlaced=False, chunks=()):
    """A PNG of any kind: `samples` is [height, width, channels]. Pillow writes only some."""

    def packed(rows):
        if depth == 16:
            rows = rows.astype(">u2")
        lines = [row.tobytes() if depth >= 8 else np.packbits(row).tobytes() for row in rows]
        return b"".join(b"\0" + line for line in lines)

    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(packed(samples[y::dy, x::dx]) for y, x, dy, dx in passes)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour_type, 0, 0, int(interlaced))
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]:
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (HERE / name).write_bytes(out)


def tiff_rgb16(name, samples):
    """An uncompressed TIFF of 16 bits a colour, little-endian."""
    strip = samples.astype("<u2").tobytes()
    bits = struct.pack("<3H", 16, 16, 16)
    entries = [
        (256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 14), (277, 3, 1, 3), (278, 3, 1, SIDE), (279, 4, 1, len(strip)),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 14 + len(strip)) + bits
    (HERE / name).write_bytes(head + strip + struct.pack("<H", len(entries)) + directory + b"\0" * 4)


def write():
    rgb = picture()
    grey = rgb.convert("L")
    palette = rgb.quantize(8)
    alpha = np.array(rgb.convert("RGBA"))
    alpha[..., 3] = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    alpha = Image.fromarray(alpha)
    pixels = np.array(rgb)

    def save(image, name, **options):
        image.save(HERE / name, **options)

    save(rgb, "baseline.jpg", quality=90, optimize=True)
    save(rgb, "progressive.jpg", quality=90, progressive=True)
    save(rgb, "restarts.jpg", quality=90, optimize=True, subsampling=0, restart_marker_blocks=1)
    save(rgb, "progressive-restarts.jpg", quality=90, progressive=True, restart_marker_blocks=1)
    save(rgb, "subsampled-422.jpg", quality=90, optimize=True, subsampling=1)
    save(rgb, "rgb-components.jpg", quality=90, optimize=True, keep_rgb=True)
    save(grey, "grey.jpg", quality=90, optimize=True)
    save(rgb.convert("CMYK"), "cmyk-inverted.jpg", quality=90, optimize=True)
    # The same stream read as YCCK: the last byte of Adobe's segment says so.
    stream = bytearray((HERE / "cmyk-inverted.jpg").read_bytes())
    stream[stream.index(b"Adobe") + 11] = 2
    (HERE / "ycck-inverted.jpg").write_bytes(stream)
    # As a phone's file goes on behind the image, with a second one.
    stream = (HERE / "baseline.jpg").read_bytes()
    (HERE / "trailing-bytes.jpg").write_bytes(stream + stream[:200] + b"and more")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(rgb, f"orientation-{orientation}.jpg", quality=90, optimize=True, exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(rgb, "orientation-6.png", exif=exif)
    save(rgb, "orientation-6.webp", lossless=True, exif=exif)
    save(rgb, "orientation-6.tif", tiffinfo={0x0112: 6}, compression="tiff_lzw")

    png("grey-16-bit.png", np.array(grey)[..., None].astype("u2") * 257, 0, depth=16)
    png("rgb-16-bit.png", pixels.astype("u2") * 257, 2, depth=16)
    png("rgba-16-bit.png", np.array(alpha).astype("u2") * 257, 6, depth=16)
    png("interlaced.png", pixels, 2, interlaced=True)
    one = (np.array(grey) > 128).astype("u1")
    png("one-bit.png", one, 0, depth=1)
    png("grey-alpha.png", np.array(alpha.convert("LA")), 4)
    png("grey-key.png", np.array(grey)[..., None], 0, chunks=[(b"tRNS", struct.pack(">H", np.array(grey)[3, 4]))])
    png("rgb-key.png", pixels, 2, chunks=[(b"tRNS", struct.pack(">3H", *pixels[5, 6]))])
    save(rgb, "rgb.png")
    save(alpha, "alpha.png")
    save(palette, "palette.png")
    save(palette, "palette-transparent.png", transparency=bytes([255, 0, 100, 200]))

    save(palette, "palette.gif", interlace=0)
    save(palette, "palette-transparent.gif", transparency=2)
    save(palette, "interlaced.gif", interlace=1)
    save(palette, "animation.gif", save_all=True, append_images=[palette.transpose(Image.Transpose.ROTATE_180)])

    save(rgb, "lossless.webp", lossless=True)
    save(alpha, "alpha-lossless.webp", lossless=True, exact=True)
    save(rgb, "lossy.webp", quality=90)
    save(alpha, "alpha-lossy.webp", quality=90)

    save(rgb, "rgb.bmp")
    save(grey, "grey.bmp")
    save(palette, "palette.bmp")
    save(rgb.convert("1"), "one-bit.bmp")

    for compression in ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"]:
        save(rgb, f"rgb-{compression}.tif", compression=compression)
    save(grey, "grey.tif")
    save(rgb.convert("1"), "one-bit.tif")
    save(alpha, "alpha.tif", compression="tiff_lzw")
    save(rgb.convert("CMYK"), "cmyk.tif", compression="tiff_lzw")
    save(Image.fromarray(np.array(grey).astype("u2") * 257), "grey-16-bit.tif", compression="tiff_lzw")
    tiff_rgb16("rgb-16-bit.tif", pixels.astype("u2") * 257)


def shown(path):
    """What a person sees of the file on a white page."""
    image = Image.open(path)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.array(image) >> 8).astype("u1"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(image.convert("RGB"), mask=image.getchannel("A"))
        image = page
    image = image.convert("RGB")
    assert image.size == (SIDE, SIDE), path
    return image


write()
files = sorted(path for path in HERE.iterdir() if path.name not in {"make.py", "shown.png"})
column = Image.new("RGB", (SIDE, SIDE * len(files)))
for place, path in enumerate(files):
    column.paste(shown(path), (0, SIDE * place))
column.save(HERE / "shown.png")
print(len(files), "images")
