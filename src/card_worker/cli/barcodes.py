"""Draws tokens as barcodes: images, and sheets of labels to print.

A barcode reveals its token: images and sheets are as secret as the file.
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

from card_worker.bureau_file import Line
from card_worker.secrets.formats import Barcode

# Labels of 105 by 48 mm: two columns of six on A4, without margins at the sides.
ACROSS, DOWN = 2, 6
LABEL_WIDTH, LABEL_HEIGHT = 105 * mm, 48 * mm
ABOVE = (A4[1] - DOWN * LABEL_HEIGHT) / 2
PADDING = 4 * mm
BAR_HEIGHT = 20 * mm
BAR_WIDTH, BAR_WIDTH_MIN = 0.33 * mm, 0.17 * mm
"""The width that a scanner reads well, and the smallest that it can read."""
QR_SIDE = 32 * mm
FONT, FONT_SIZE, LINE_HEIGHT = "Courier", 8, 4 * mm
NAME_CHARS_MAX = 200
"""Most file systems take 255 bytes, with the suffix."""


class NotDrawn(Exception):
    """A token can't be drawn as this barcode. The text says why, in a line."""


class TooLong(NotDrawn):
    """The bars would be too thin to be read."""


def draw_images(lines: Sequence[Line], kind: Barcode, folder: Path) -> int:
    """Draw each token into a folder, an SVG file named after its card; return how many.

    Only the owner can read the files. They appear in the folder when all are drawn. Raises
    NotDrawn and OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".drawing-") as beside:
        for line in lines:
            if line["token"]:
                picture = renderSVG.drawToString(_barcode(line["token"], kind))
                _write(Path(beside, f"{_name(line['card_id'])}.svg"), picture)
        drawn = list(Path(beside).iterdir())
        for file in drawn:
            file.replace(folder / file.name)
    return len(drawn)


def _name(card_id: str) -> str:
    """Return a file name for the image of a card: valid in any folder, and unique."""
    name = quote(card_id, safe=" ")
    if len(name) <= NAME_CHARS_MAX:
        return name
    digest = hashlib.sha256(card_id.encode()).hexdigest()
    return f"{name[:NAME_CHARS_MAX]}-{digest[:16]}"


def _write(file: Path, picture: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as opened:
        opened.write(picture)


def draw_sheet(lines: Sequence[Line], kind: Barcode) -> bytes:
    """Return a PDF with a label for each card: its barcode, its card_id, its PIN if it has one.

    Raises NotDrawn.
    """
    written = io.BytesIO()
    pages = Canvas(written, pagesize=A4)
    for place, line in enumerate(lines):
        on_page = place % (ACROSS * DOWN)
        if place and on_page == 0:
            pages.showPage()
        left = on_page % ACROSS * LABEL_WIDTH
        top = A4[1] - ABOVE - on_page // ACROSS * LABEL_HEIGHT
        _draw_label(pages, line, kind, left, top)
    pages.save()
    return written.getvalue()


def _draw_label(pages: Canvas, line: Line, kind: Barcode, left: float, top: float) -> None:
    below = top - PADDING
    if line["token"]:
        barcode = _barcode(line["token"], kind)
        below -= barcode.height
        renderPDF.draw(barcode, pages, left + (LABEL_WIDTH - barcode.width) / 2, below)
    pages.setFont(FONT, FONT_SIZE)
    texts = [line["card_id"], f"PIN {line['pin']}" if line["pin"] else ""]
    for text in filter(None, texts):
        below -= LINE_HEIGHT
        pages.drawCentredString(left + LABEL_WIDTH / 2, below, text)


def _barcode(token: str, kind: Barcode) -> Drawing:
    if kind is Barcode.QR:
        return createBarcodeDrawing("QR", value=token, width=QR_SIDE, height=QR_SIDE)
    if not token.isascii():
        raise NotDrawn("a token has characters that Code 128 can't encode: use QR")
    modules = createBarcodeDrawing("Code128", value=token, barWidth=1, humanReadable=False).width
    bar_width = min(BAR_WIDTH, (LABEL_WIDTH - PADDING) / modules)
    if bar_width < BAR_WIDTH_MIN:
        raise TooLong(f"a token of {len(token)} characters is too long for Code 128: use QR")
    return createBarcodeDrawing(
        "Code128", value=token, barWidth=bar_width, barHeight=BAR_HEIGHT, humanReadable=False
    )
