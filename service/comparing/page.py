"""A comparison of two versions as one HTML file that needs nothing else, images included."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape

from service.comparing.versions import FINDINGS, Compared, Comparison, Contender, Finding, Truth

_MOST_SHOWN = 100
_SPOKEN: dict[Truth, str] = {
    "defect": "defect, by a person",
    "good": "good, by a person",
    "unknown": "nobody looked at it",
}
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --paper: #fff; --quiet: #57606a; --line: #d0d7de; --wrong: #b42318;
  --warning: #fff4e5; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --paper: #14181d; --quiet: #9aa4af; --line: #39424c;
  --wrong: #ff8a7d; --warning: #3a2a10; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--paper); }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; } th, td { padding: .25rem .9rem .25rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid var(--line); }
.wrong { color: var(--wrong); font-weight: 600; }
.warning { background: var(--warning); border-left: 4px solid #d97706; padding: .5rem 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; } figure { margin: 0; } img { max-width: 100%; }
figcaption { font-size: .8rem; color: var(--quiet); overflow-wrap: anywhere; } figcaption b { color: var(--text); }
.quiet { color: var(--quiet); font-size: .9rem; }
"""


def to_html(found: Comparison, title: str, notes: Sequence[str] = (), warnings: Sequence[str] = ()) -> bytes:
    """The page, as UTF-8; `notes` say how sure it is, `warnings` stand above everything."""
    body = [f"<h1>{escape(title)}</h1>", *_content(found, notes, warnings)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    ).encode()


def section(found: Comparison, notes: Sequence[str] = ()) -> bytes:
    """The same as a part of a training's report, whose style it shares."""
    return "\n".join(["<h2>Beside the version before</h2>", *_content(found, notes, ())]).encode()


def _content(found: Comparison, notes: Sequence[str], warnings: Sequence[str]) -> list[str]:
    left_out = [f"{count} left out: {escape(why)}" for why, count in found.left_out.items()]
    return [
        f'<p class="quiet">{escape(found.recipe)}: version {escape(found.before.name)} beside version '
        f"{escape(found.after.name)}, on the same {len(found.images)} images</p>",
        f"<p>{_summary(found)}</p>",
        *(f'<p class="warning">{escape(warning)}</p>' for warning in [*_warnings(found), *warnings]),
        *(f"<p>{escape(note)}</p>" for note in notes),
        "<h2>What each makes of the images</h2>",
        *_confusion(found),
        "<h2>Thresholds</h2>",
        _thresholds([found.before, found.after]),
        "<h2>Images whose verdict changed</h2>",
        *_changes(found),
        *(f'<p class="quiet">{line}</p>' for line in left_out),
    ]


def _summary(found: Comparison) -> str:
    """How many verdicts change, and how."""
    changes = Counter((one.before.finding, one.after.finding) for one in found.changes())
    said = ", ".join(f"{before} becomes {after}: {count}" for (before, after), count in changes.most_common())
    return f"{changes.total()} of {len(found.images)} verdicts change{'. ' if said else ''}{said}.".replace("_", " ")


def _warnings(found: Comparison) -> list[str]:
    defects = sum(found.confusion("after")["defect"].values())
    if not defects:
        return ["No image here shows a defect that a person confirmed: nothing is said of what would escape."]
    if escapes := found.new_escapes:
        return [
            f"{len(escapes)} of {defects} confirmed defects would pass as OK that {found.before.name} does not pass."
        ]
    return []


def _confusion(found: Comparison) -> list[str]:
    head = "".join(f"<th>{finding.replace('_', ' ')}</th>" for finding in FINDINGS)
    rows = []
    before, after = found.confusion("before"), found.confusion("after")
    for truth, spoken in _SPOKEN.items():
        if not sum(after[truth].values()):
            continue
        for version, counts in ((found.before.name, before[truth]), (found.after.name, after[truth])):
            cells = "".join(_cell(counts[one], wrong=_is_wrong(truth, one)) for one in FINDINGS)
            rows.append(f"<tr><td>{spoken}</td><td>{escape(version)}</td>{cells}</tr>")
    return [
        f'<div class="table"><table><tr><th>the part</th><th>version</th>{head}</tr>{"".join(rows)}</table></div>',
        '<p class="quiet">Red: defects that pass, good parts that are rejected. People look at doubtful parts and at '
        "some that passed: of all parts the shares are others.</p>",
    ]


def _cell(count: int, *, wrong: bool) -> str:
    return f'<td class="wrong">{count}</td>' if count and wrong else f"<td>{count}</td>"


def _thresholds(versions: Sequence[Contender]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{one.thresholds.review:.4f}</td><td>{one.thresholds.reject:.4f}</td>"
        f"<td>{one.thresholds.pixel:.3f}</td><td>{one.thresholds.min_area}</td></tr>"
        for one in versions
    )
    head = "<tr><th>version</th><th>review from</th><th>reject from</th><th>pixel</th><th>smallest area</th></tr>"
    return f'<div class="table"><table>{head}{rows}</table></div>'


def _changes(found: Comparison) -> list[str]:
    changed = found.changes()
    if not changed:
        return ["<p>None.</p>"]
    parts = [
        f'<p class="quiet">{len(changed)} of {len(found.images)}. Image, map of {escape(found.before.name)}, map of '
        f"{escape(found.after.name)}; each outlined at its own pixel threshold.</p>"
    ]
    for truth, spoken in _SPOKEN.items():
        shown = [one for one in changed if one.truth == truth]
        if shown:
            figures = "".join(map(_figure, shown[:_MOST_SHOWN]))
            more = f'<p class="quiet">and {len(shown) - _MOST_SHOWN} more</p>' if len(shown) > _MOST_SHOWN else ""
            parts.append(f'<h3>{spoken}</h3><div class="pictures">{figures}</div>{more}')
    return parts


def _is_wrong(truth: Truth, finding: Finding) -> bool:
    """What nobody wants for a part that people looked at."""
    return (truth, finding) in {("good", "NG"), ("defect", "OK")}


def _figure(one: Compared) -> str:
    data = base64.b64encode(one.strip or b"").decode()
    wrong = ' class="wrong"' if _is_wrong(one.truth, one.after.finding) else ""
    said = f"{one.before.finding} {one.before.score:.4f} → <b{wrong}>{one.after.finding} {one.after.score:.4f}</b>"
    return (
        f'<figure><img alt="{escape(one.name)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(one.name)}<br>{said.replace('_', ' ')}</figcaption></figure>"
    )
