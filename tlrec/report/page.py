"""The report as one HTML file with its figures inside, which opens without a server."""

import base64
import html

from tlrec.files import printable, whole_file

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: #fff; color: #1d2733;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid #d9dfe6;
  overflow-wrap: anywhere; }
p { max-width: 48rem; margin: .6rem 0; }
p.more { color: #56636f; font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .9375rem; }
a { color: #0b5a94; }
.scroll { overflow-x: auto; margin: 1rem 0; }
.scroll:focus-visible { outline: 2px solid #0b5a94; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .35rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e3e8ed; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #9aa7b4; white-space: nowrap; }
td { min-width: 4.6rem; }
td:first-child { min-width: 10rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.reference { color: #56636f; font-style: italic; }
td.level { min-width: 0; }
td.warning { color: #a32a00; font-weight: 700; }
td.note { color: #7a5200; font-weight: 600; }
figure { margin: 1.25rem 0; overflow-x: auto; }
figure img { width: auto; max-width: 100%; height: auto; }
figure:first-child img { max-width: min(100%, 48rem); }
figure:only-child img { max-width: 100%; min-width: 40rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .5rem 1.5rem;
  align-items: start; }
figure:first-child:nth-last-child(n + 2) { grid-column: 1 / -1; }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  table { font-size: .8125rem; }
  th, td { padding: .25rem .45rem; }
}
@media print { .scroll { overflow: visible; } }
"""


def write_page(path, sections, pictures):
    """Write `index.html`; sections: of `tlrec.report.tables`, pictures: of `tlrec.report.figures`."""
    links = "".join(f'<a href="#s{number}">{escape(s.heading)}</a>' for number, s in enumerate(sections))
    body = "".join(section_html(number, section, pictures) for number, section in enumerate(sections))
    with whole_file(path) as file:
        file.write(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>TLRec report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f'<header><h1>TLRec report</h1><nav aria-label="Sections">{links}</nav></header>\n'
            f"<main>\n{body}</main>\n</body>\n</html>\n"
        )


def escape(text):
    """`text` escaped for HTML, between tags or in quotes."""
    return html.escape(printable(text))


def section_html(number, section, pictures):
    """One section: its first paragraph large, the table, figures, then the rest."""
    parts = [f'<section id="s{number}">\n<h2>{escape(section.heading)}</h2>\n']
    parts += [f"<p>{escape(text)}</p>\n" for text in section.paragraphs[:1]]
    parts += [table_html(table) for table in section.tables[:1]]
    parts += [f'<p class="more">{escape(text)}</p>\n' for text in section.paragraphs[1:]]
    if shown := [picture_html(picture) for picture in pictures if picture.section == section.pictures]:
        parts.append(f'<div class="figures">\n{"".join(shown)}</div>\n')
    parts += [table_html(table) for table in section.tables[1:]]
    return "".join(parts) + "</section>\n"


def table_html(table):
    """A table that scrolls sideways on narrow screens, by keyboard too."""

    def cell(tag, column, text, row=""):
        kind = "" if column < table.text_columns else ' class="number"'
        if column == 0 and text in ("warning", "note", "ok"):
            kind = f' class="level {text}"'
        return f"<{tag}{kind}{row}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column, text, ' scope="col"') for column, text in enumerate(table.header))
    rows = []
    for row in table.rows:
        reference = ' class="reference"' if row[0].startswith(("floor: ", "published: ")) else ""
        rows.append(f"<tr{reference}>{''.join(cell('td', column, text) for column, text in enumerate(row))}</tr>\n")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">\n<table>\n'
        f"<caption>{escape(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>\n</table>\n</div>\n"
    )


def picture_html(picture):
    """A figure with its file inside and its content in words."""
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{escape(picture.text)}" src="data:image/png;base64,{data}"></figure>\n'
