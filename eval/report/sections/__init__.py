"""The sections of the page, one module each, with its Jinja partial of the same name beside it.

A section is a function `section(page: Page) -> Section | None`; None = nothing to say in this report. It is listed, in the order
of the page, in `SECTIONS` of `eval/report/build.py`. The smallest one:

    def section(page: Page) -> Section | None:
        rows = page.data["divergence"]        # of results.json; the same as objects: page.derived (see eval/derived.py)
        if not rows:
            return None
        chart = Chart("kl", "KL by stage", finish(alt.Chart(...), height=200), Table.of(rows, {"stage": "stage", ...}))
        return page.section("divergence", "Distance from the base", charts=[chart], rows=rows)

and its partial `divergence.html`, which sees `page`, `charts`, `words` and the keywords given, everything escaped:

    {% import "macros.html" as macros %}
    {{ macros.keys(page) }}
    {{ macros.figure(charts[0]) }}
    {{ macros.numbers(table) }}
    <p class="caption">n, seeds and scope.</p>

`macros.figure` places a chart with its table folded below it; `macros.numbers` lays out a `Table`. Every table with a head gets its
CSV and LaTeX export, every figure its SVG export, from the page's script. A table written by hand says with
`{{ exported(value, low, high) }}` in a cell's tag what the CSV holds in its place, with `{{ exported() }}` that it is left out.
"""
