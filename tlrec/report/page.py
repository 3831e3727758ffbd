"""The report as one HTML file with its figures inside, which opens without a server."""

import base64
import html

from tlrec.files import printable, whole_file
from tlrec.report.tables import is_number

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2733; --soft: #56636f; --line: #d9dfe6; --link: #0b5a94;
  --bad: #a32a00; --fair: #7a5200; }
@media (prefers-color-scheme: dark) { :root { --back: #14191f; --text: #dfe5ea; --soft: #a3b0bc; --line: #39434e;
  --link: #7fc1f2; --bad: #ff9a73; --fair: #e8c36a; } }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
p { max-width: 48rem; margin: .6rem 0; }
p.more, tr.reference { color: var(--soft); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .9375rem; }
a { color: var(--link); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .35rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; }
tr.reference { font-style: italic; }
td.warning { color: var(--bad); font-weight: 700; }
td.note { color: var(--fair); font-weight: 600; }
figure { margin: 1.25rem 0; }
figure img { max-width: 100%; height: auto; border-radius: 4px; }
.figures { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: start; }
.figures figure { flex: 1 1 26rem; max-width: 44rem; }
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
    """One section: its first paragraph large, the first table, the other paragraphs, figures, then the other tables."""
    tables = [table_html(caption, table) for caption, table in section.tables.items()]
    parts = [f'<section id="s{number}">\n<h2>{escape(section.heading)}</h2>\n']
    parts += [f"<p>{escape(text)}</p>\n" for text in section.paragraphs[:1]]
    parts += tables[:1] + [f'<p class="more">{escape(text)}</p>\n' for text in section.paragraphs[1:]]
    if shown := [picture_html(picture) for picture in pictures if picture.section == section.pictures]:
        parts.append(f'<div class="figures">\n{"".join(shown)}</div>\n')
    return "".join(parts + tables[1:]) + "</section>\n"


def table_html(caption, table):
    """A table of strings that scrolls sideways on narrow screens, by keyboard too."""
    numbers = [' class="number"' if is_number(table, place) else "" for place in range(table.shape[1])]
    head = "".join(f'<th{kind} scope="col">{escape(name)}</th>' for name, kind in zip(table, numbers, strict=True))
    rows = []
    for row in table.itertuples(index=False):
        kinds = [f' class="{row[0]}"' if row[0] in ("warning", "note", "ok") else numbers[0], *numbers[1:]]
        cells = "".join(f"<td{kind}>{escape(str(text))}</td>" for text, kind in zip(row, kinds, strict=True))
        reference = ' class="reference"' if str(row[0]).startswith(("floor: ", "published: ")) else ""
        rows.append(f"<tr{reference}>{cells}</tr>\n")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n<table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>\n</table>\n</div>\n"
    )


def picture_html(picture):
    """A figure with its file inside and its content in words."""
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{escape(picture.text)}" src="data:image/png;base64,{data}"></figure>\n'
