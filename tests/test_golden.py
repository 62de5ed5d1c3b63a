"""Files written earlier decode to the same integers for good."""

import zlib
from pathlib import Path

import numpy as np

from vaert import bitstream
from vaert.image import read_image
from vaert.runtime.codec import Codec

GOLDEN = Path(__file__).parent / "golden"
LATENTS_CRC = 0xD940D645  # of the int32 little-endian latents, rows, columns, channels
ORIGIN = (slice(160, 300), slice(80, 281))  # of the golden picture in examples/kodim23.png


def test_a_golden_file_decodes_to_its_integers(root: Path) -> None:
    data = (GOLDEN / "kodim23-part.vaert").read_bytes()
    codec = Codec.for_file(data)
    latents = codec.decode_latents(bitstream.parse_photo(data))
    assert zlib.crc32(latents.astype("<i4").tobytes()) == LATENTS_CRC
    original = read_image((root / "examples" / "kodim23.png").read_bytes(), name="kodim23").pixels[ORIGIN]
    error = np.square(codec.decompress(data).astype(float) - original).mean()
    assert 10 * np.log10(255**2 / error) > 30
