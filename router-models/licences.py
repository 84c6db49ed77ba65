"""Which rows of the prompt corpus may train the shipped bundle.

The rule: every licence that the row names must permit commercial use, and must be a licence. Share-alike and
attribution licences pass (the bundle's README and manifest carry the attribution). The match is exact: a licence string
that is not listed in licences.txt is refused, so that a new source cannot slip in.
"""

import pathlib

ALLOWED = frozenset(
    line.strip()
    for line in pathlib.Path(__file__).with_name("licences.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
)

# Known and left out: the named terms forbid commercial use, differ from row to row without saying which row has which,
# or are no licence at all. They are listed so that a typing error in licences.txt cannot hide.
REFUSED = {
    "Apache-2.0 (repository), CC BY-NC 4.0 (Alpaca)": "non-commercial",
    "Apache-2.0 (repository); original data set terms apply": "terms of the originals not stated row by row",
    "CC BY-NC 4.0": "non-commercial",
    "CC BY-NC-SA 4.0": "non-commercial",
    "CC BY-NC-SA 4.0 (DailyDialog)": "non-commercial",
    "MIT (as stated by the repository)": "posts of forum users, licensed by a third party",
    "MIT (repository); LogiQA CC BY-NC-SA 4.0": "non-commercial in part",
    "MIT / CC BY-NC 4.0": "non-commercial in part",
    "advising CC BY 4.0; the other sets are shared there with permission of their authors, no further terms": "no licence for most rows",
    "no licence file in the copy; the same WritingPrompts data is tagged MIT on the HF hub (unverified)": "no licence",
    "per task: CC BY / CC BY-NC / CC BY-NC-SA / MIT": "non-commercial in part",
}


def permitted(row):
    """Whether a row of the corpus may be used; raises on a licence nobody has judged."""
    licence = row["license"]
    if licence not in ALLOWED and licence not in REFUSED:
        raise ValueError(f"row {row.get('id')}: licence {licence!r} is neither in licences.txt nor in REFUSED of licences.py")
    return licence in ALLOWED
