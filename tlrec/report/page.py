"""The sections of a report as results.md, and as index.html with its figures inside, which opens without a server."""

import base64
import html
import re

import pandas as pd

from tlrec.files import printable, whole_file

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem; font: 16px/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid; overflow-wrap: anywhere; }
p { max-width: 48rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8886; text-align: left; vertical-align: top; }
.warning { color: #c33c00; font-weight: 700; }
figure { display: inline-block; margin: .5rem; max-width: 44rem; }
figure img { max-width: 100%; }
"""


def write_markdown(path, sections):
    """The sections as Markdown, with links to the figures."""
    lines = ["# TLRec report", ""]
    for section in sections:
        lines += [f"## {markdown_text(section.heading)}", ""]
        for paragraph in section.paragraphs:
            lines += [markdown_text(paragraph), ""]
        for caption, table in section.tables.items():
            header, *rows = ([markdown_text(str(cell)) for cell in row] for row in (table, *table.values.tolist()))
            rows = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
            lines += [f"**{markdown_text(caption)}**", "", *rows, ""]
        for picture, text in section.pictures.items():
            lines += [f"![{markdown_text(text)}]({picture.name})", ""]
    with whole_file(path) as file:
        file.write("\n".join(lines).rstrip() + "\n")


def markdown_text(text):
    """`text` escaped for Markdown and HTML: names come from folders and files, so they may contain anything."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(printable(text), quote=False))


def write_page(path, sections):
    """The sections as one HTML file."""
    links = " ".join(f'<a href="#s{number}">{escape(s.heading)}</a>' for number, s in enumerate(sections))
    body = "".join(section_html(number, section) for number, section in enumerate(sections))
    with whole_file(path) as file:
        file.write(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>TLRec report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f'<h1>TLRec report</h1>\n<nav aria-label="Sections">{links}</nav>\n{body}</body>\n</html>\n'
        )


def escape(text):
    """`text` escaped for HTML, between tags or in quotes."""
    return html.escape(printable(text))


def section_html(number, section):
    """One section: its first paragraph, the first table, the other paragraphs, figures, then the other tables."""
    paragraphs = [f"<p>{escape(text)}</p>\n" for text in section.paragraphs]
    tables = [table_html(caption, table) for caption, table in section.tables.items()]
    figures = []
    for path, text in section.pictures.items():
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        figures.append(f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}"></figure>\n')
    parts = paragraphs[:1] + tables[:1] + paragraphs[1:] + figures + tables[1:]
    return f'<section id="s{number}">\n<h2>{escape(section.heading)}</h2>\n{"".join(parts)}</section>\n'


def table_html(caption, table):
    """A table that scrolls sideways on narrow screens, by keyboard too."""
    plain = table.astype(str).map(printable).rename(columns=printable)
    with pd.option_context("display.max_colwidth", None):  # else long cells are cut
        rows = plain.to_html(index=False, border=0).replace("<td>warning", '<td class="warning">warning')
    return f'<h3>{escape(caption)}</h3>\n<div class="scroll" tabindex="0">\n{rows}\n</div>\n'
