"""Drawing tokens as barcodes: images, and sheets of labels to print.

A barcode contains its token, so images and sheets are as secret as the file.
"""

import hashlib
import io
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
"""The width that a scanner reads well, and the smallest that it reads."""
QR_SIDE = 32 * mm
FONT, FONT_SIZE, LINE_HEIGHT = "Courier", 8, 4 * mm
NAME_CHARS_MAX = 200
"""Most file systems take 255 bytes, with the suffix."""


class NotDrawn(Exception):
    """A token can't be drawn as this barcode. The text is the reason, one line."""


def draw_images(lines: Sequence[Line], symbol: Barcode, folder: Path) -> int:
    """Draw each token as an SVG file named after its card; return the number of files.

    Only the owner can read the files. They are moved into the folder when all are drawn. Raises
    NotDrawn and OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".drawing-") as temporary:
        for line in lines:
            if line["token"]:
                file = Path(temporary, f"{_name(line['card_id'])}.svg")
                file.touch(0o600)
                file.write_text(renderSVG.drawToString(_barcode(line["token"], symbol)), "utf-8")
        files = list(Path(temporary).iterdir())
        for file in files:
            file.replace(folder / file.name)
    return len(files)


def _name(card_id: str) -> str:
    """Return a file name for the image of a card: valid in any folder, and unique."""
    name = quote(card_id, safe=" ")
    if len(name) <= NAME_CHARS_MAX:
        return name
    digest = hashlib.sha256(card_id.encode()).hexdigest()
    return f"{name[:NAME_CHARS_MAX]}-{digest[:16]}"


def draw_sheet(lines: Sequence[Line], symbol: Barcode) -> bytes:
    """Return a PDF with a label for each card: its barcode, its card_id, its PIN if it has one.

    Raises NotDrawn.
    """
    content = io.BytesIO()
    pages = Canvas(content, pagesize=A4)
    for place, line in enumerate(lines):
        on_page = place % (ACROSS * DOWN)
        if place and on_page == 0:
            pages.showPage()
        left = on_page % ACROSS * LABEL_WIDTH
        top = A4[1] - ABOVE - on_page // ACROSS * LABEL_HEIGHT
        _draw_label(pages, line, symbol, left, top)
    pages.save()
    return content.getvalue()


def _draw_label(pages: Canvas, line: Line, symbol: Barcode, left: float, top: float) -> None:
    below = top - PADDING
    if line["token"]:
        barcode = _barcode(line["token"], symbol)
        below -= barcode.height
        renderPDF.draw(barcode, pages, left + (LABEL_WIDTH - barcode.width) / 2, below)
    pages.setFont(FONT, FONT_SIZE)
    texts = [line["card_id"], f"PIN {line['pin']}" if line["pin"] else ""]
    for text in filter(None, texts):
        below -= LINE_HEIGHT
        pages.drawCentredString(left + LABEL_WIDTH / 2, below, text)


def _barcode(token: str, symbol: Barcode) -> Drawing:
    if symbol is Barcode.QR:
        return createBarcodeDrawing("QR", value=token, width=QR_SIDE, height=QR_SIDE)
    if not token.isascii():
        raise NotDrawn("a token has characters that Code 128 can't encode: use QR")
    modules = createBarcodeDrawing("Code128", value=token, barWidth=1, humanReadable=False).width
    bar_width = min(BAR_WIDTH, (LABEL_WIDTH - PADDING) / modules)
    if bar_width < BAR_WIDTH_MIN:
        raise NotDrawn(f"a token of {len(token)} characters is too long for Code 128: use QR")
    return createBarcodeDrawing(
        "Code128", value=token, barWidth=bar_width, barHeight=BAR_HEIGHT, humanReadable=False
    )
