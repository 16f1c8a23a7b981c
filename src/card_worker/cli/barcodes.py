"""Tokens as barcodes: pictures, and sheets of labels to print.

Who sees the bars has the token.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from reportlab.graphics import renderPDF, renderSVG
from reportlab.graphics.barcode import createBarcodeDrawing
from reportlab.graphics.shapes import Drawing
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from card_worker.secrets.formats import Barcode

# Labels of 105 by 48 mm: two beside one another and six below, on A4 without margins at the sides.
ACROSS, DOWN = 2, 6
LABEL_WIDTH, LABEL_HEIGHT = 105 * mm, 48 * mm
ABOVE = (A4[1] - DOWN * LABEL_HEIGHT) / 2
PADDING = 4 * mm
BAR_HEIGHT = 20 * mm
BAR_WIDTH, BAR_WIDTH_MIN = 0.33 * mm, 0.17 * mm
"""What a till reads well, and at all."""
QR_SIDE = 32 * mm
FONT, FONT_SIZE, LINE = "Courier", 8, 4 * mm
NAME_CHARS_MAX = 200
"""Of a picture's name; most file systems take 255 bytes, with what is added."""

Row = dict[str, str]


class NotDrawn(Exception):
    """A token of which there can be no such barcode. The text says why, in a line."""


class TooLong(NotDrawn):
    """Its bars would be too thin to be read."""


def draw_images(rows: Sequence[Row], kind: Barcode, folder: Path) -> int:
    """Draw each token into a folder, an SVG named after its card; return how many.

    Only their owner may read them, and they come into the folder once all are drawn. Raises
    NotDrawn and OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".drawing-") as beside:
        for row in rows:
            if row["token"]:
                picture = renderSVG.drawToString(_barcode(row["token"], kind))
                _write(Path(beside, f"{_name(row['card_id'])}.svg"), picture)
        drawn = list(Path(beside).iterdir())
        for file in drawn:
            file.replace(folder / file.name)
    return len(drawn)


def _name(card_id: str) -> str:
    """Return what the picture of a card is called: a name that any folder can hold, of its own."""
    name = quote(card_id, safe=" ")
    if len(name) <= NAME_CHARS_MAX:
        return name
    digest = hashlib.sha256(card_id.encode()).hexdigest()
    return f"{name[:NAME_CHARS_MAX]}-{digest[:16]}"


def _write(file: Path, picture: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as opened:
        opened.write(picture)


def draw_sheet(rows: Sequence[Row], kind: Barcode) -> bytes:
    """Return a PDF with a label for each card: its barcode, its card_id, its PIN if it has one.

    Raises NotDrawn.
    """
    written = io.BytesIO()
    pages = Canvas(written, pagesize=A4)
    for place, row in enumerate(rows):
        on_page = place % (ACROSS * DOWN)
        if place and on_page == 0:
            pages.showPage()
        left = on_page % ACROSS * LABEL_WIDTH
        top = A4[1] - ABOVE - on_page // ACROSS * LABEL_HEIGHT
        _draw_label(pages, row, kind, left, top)
    pages.save()
    return written.getvalue()


def _draw_label(pages: Canvas, row: Row, kind: Barcode, left: float, top: float) -> None:
    below = top - PADDING
    if row["token"]:
        barcode = _barcode(row["token"], kind)
        below -= barcode.height
        renderPDF.draw(barcode, pages, left + (LABEL_WIDTH - barcode.width) / 2, below)
    pages.setFont(FONT, FONT_SIZE)
    lines = [row["card_id"], f"PIN {row['pin']}" if row["pin"] else ""]
    for line in filter(None, lines):
        below -= LINE
        pages.drawCentredString(left + LABEL_WIDTH / 2, below, line)


def _barcode(token: str, kind: Barcode) -> Drawing:
    if kind is Barcode.QR:
        return createBarcodeDrawing("QR", value=token, width=QR_SIDE, height=QR_SIDE)
    if not token.isascii():
        raise NotDrawn("a token has characters that Code 128 doesn't have: use QR")
    modules = createBarcodeDrawing("Code128", value=token, barWidth=1, humanReadable=False).width
    bar_width = min(BAR_WIDTH, (LABEL_WIDTH - PADDING) / modules)
    if bar_width < BAR_WIDTH_MIN:
        raise TooLong(f"a token of {len(token)} characters is too long for Code 128: use QR")
    return createBarcodeDrawing(
        "Code128", value=token, barWidth=bar_width, barHeight=BAR_HEIGHT, humanReadable=False
    )
