"""Barcodes on labels and in images contain the tokens."""

import io
from pathlib import Path

import pypdfium2
import pytest
import zxingcpp
from PIL.Image import Image

from card_worker.cli.barcodes import NotDrawn, draw_images, draw_sheet
from card_worker.secrets.drawing import draw_tokens
from card_worker.secrets.formats import Barcode, TokenFormat

FORMATS = [
    None,
    TokenFormat(numbers=True, length=16),
    TokenFormat(symbols=True, numbers=True, characters=True, length=20, prefix="GC|"),
]
DOTS = 8
"""For each point of a page, a 72nd of an inch: what a good printer does."""


def rows(format: TokenFormat | None, count: int) -> list[dict[str, str]]:
    return [
        {"card_id": f"card/{number}", "token": token, "pin": "4711", "type": "gift_card"}
        for number, token in enumerate(draw_tokens(format, count))
    ]


def pages(pdf: bytes) -> list[Image]:
    document = pypdfium2.PdfDocument(io.BytesIO(pdf))
    try:
        return [document[number].render(scale=DOTS).to_pil() for number in range(len(document))]
    finally:
        document.close()


@pytest.mark.parametrize("kind", Barcode)
def test_the_barcode_of_a_label_contains_the_token(kind: Barcode) -> None:
    labels = [row for format in FORMATS for row in rows(format, 5)]
    printed = pages(draw_sheet(labels, kind))
    assert len(printed) == 2
    # Scaled down, bars run into each other, and a wrong reading can have the right check sum.
    read = [
        code.text for page in printed for code in zxingcpp.read_barcodes(page, try_downscale=False)
    ]
    assert sorted(read) == sorted(label["token"] for label in labels)


def test_a_label_shows_card_id_and_pin() -> None:
    pdf = draw_sheet([{"card_id": "card-01", "token": "", "pin": "4711", "type": ""}], Barcode.QR)
    document = pypdfium2.PdfDocument(io.BytesIO(pdf))
    text = document[0].get_textpage().get_text_range()
    document.close()
    assert "card-01" in text
    assert "PIN 4711" in text


def test_images_are_named_by_card_id(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "codes"
    assert draw_images(rows(None, 3), Barcode.CODE_128, folder) == 3
    assert sorted(file.name for file in folder.iterdir()) == [f"card%2F{n}.svg" for n in range(3)]
    assert all("<svg" in file.read_text() for file in folder.iterdir())


def test_barcodes_with_too_thin_bars_are_refused() -> None:
    long = rows(TokenFormat(length=128), 1)
    with pytest.raises(NotDrawn, match="128 characters"):
        draw_sheet(long, Barcode.CODE_128)
    assert draw_sheet(long, Barcode.QR)
