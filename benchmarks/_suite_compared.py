"""A comparison of two runs as lines for a terminal and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from benchmarks._markdown import table
from benchmarks._suite_compare import FASTER, SAME, SLOWER, WITHIN, Comparison, Pair

MOST = {SLOWER: 20, FASTER: 10}  # lines on a terminal
MOST_LOST = 5
ORIENTATION = "ratios above 1 are better"


def text(found: Comparison) -> Iterator[str]:
    """For a terminal: what else differs, the largest slowdowns, what is no longer measured, the summary."""
    new, old = found.names
    yield f"{new} compared with {old}; {ORIENTATION}"
    yield from _remarks(found)
    for verdict, most in MOST.items():
        pairs = found.of(verdict)
        for pair in pairs[:most]:
            line = f"{pair.section} {_what(pair)}: {pair.old} -> {pair.new}, noise {_noise(pair)}"
            yield f"{_word(pair):7} {pair.ratio:6.2f}  {line}"
        if len(pairs) > most:
            yield f"and {len(pairs) - most} more that are {verdict}: `run-NAME-compared.md` has all rows"
    lost = [(row, reason) for row, reason in found.unpaired if reason.startswith("not measured in the new run")]
    yield from (f"lost     {row}: {reason}" for row, reason in lost[:MOST_LOST])
    if len(lost) > MOST_LOST:
        yield f"and {len(lost) - MOST_LOST} more that are lost"
    yield from _summary(found)


def markdown(found: Comparison) -> Iterator[str]:
    """A page with all rows, by section."""
    new, old = found.names
    yield f"# {new} compared with {old}\n"
    yield f"{ORIENTATION.capitalize()}; noise is what they may differ from 1 by chance.\n"
    yield from (f"- {line}" for line in (*_remarks(found), *_summary(found)))
    for section in dict.fromkeys(pair.section for pair in found.pairs):
        yield f"\n## {section}\n"
        own = [pair for pair in found.pairs if pair.section == section]
        rows = [(_what(p), p.old, p.new, f"{p.ratio:.3f}", _noise(p), _mark(p)) for p in own]
        yield table(("", old, new, "ratio", "noise", ""), rows)
    if found.unpaired:
        yield "\n## Not compared\n"
        yield table(("row", "why"), [(row, reason.replace("<", "&lt;")) for row, reason in found.unpaired])


def _remarks(found: Comparison) -> Iterator[str]:
    yield from found.remarks
    if found.remarks:
        yield "ratios tell of these differences as well"


def _summary(found: Comparison) -> Iterator[str]:
    counts = Counter(pair.verdict for pair in found.pairs)
    rows = sum(not pair.fact for pair in found.pairs)
    numbers = f"{counts[SLOWER]} {SLOWER} or worse, {counts[FASTER]} {FASTER} or better, {counts[SAME]} {SAME}"
    yield f"{len(found.pairs)} figures of {rows} rows compared: {numbers}"
    if found.unpaired:
        reasons = Counter(reason.partition(":")[0] for _, reason in found.unpaired)
        yield f"{len(found.unpaired)} rows not compared: {', '.join(f'{n} {why}' for why, n in reasons.items())}"
    (agreeing, timed), (calm, quiet) = found.agreement(), found.agreement(quiet=True)
    if timed:
        yield f"medians agree within {WITHIN:.0%} in {agreeing} of {timed} rows with times ({agreeing / timed:.0%})"
    if 0 < quiet < timed:
        yield f"where others disturbed neither run, in {calm} of {quiet} ({calm / quiet:.0%})"
    for section, mean in found.means().items():
        yield f"{section}: geometric mean of the ratios of times {mean:.3f}"


def _what(pair: Pair) -> str:
    return f"{pair.what}, {pair.fact.replace('_', ' ')}" if pair.fact else pair.what


def _noise(pair: Pair) -> str:
    return f"{pair.noise:.{1 if pair.noise < 0.0995 else 0}%}"


def _word(pair: Pair) -> str:
    """The verdict; figures without times are worse and better instead."""
    return pair.verdict if pair.timed else {SLOWER: "worse", FASTER: "better"}.get(pair.verdict, pair.verdict)


def _mark(pair: Pair) -> str:
    return f"**{_word(pair)}**" if pair.verdict == SLOWER else _word(pair)
