"""The page's lists as HTML. Whatever comes from the catalogue is escaped; colours and layout stand in `style.css`."""

from __future__ import annotations

from html import escape

from engine import Engine, Found, Step

END = "</s>"


def hits_view(engine: Engine, rows: list[int], count: int, history: list[int]) -> str:
    """What a search has found: each row adds its item to the history, or takes it out again."""
    if not rows:
        return '<p class="gram-note" role="status">Nothing found. Try fewer or other words.</p>'
    shown = f", the first {len(rows)}" if count > len(rows) else ""
    lines = []
    for row in rows:
        is_in = row in history
        action, sign = ("remove", "✓") if is_in else ("add", "+")
        label = f"{engine.titles[row]}, {'in the history; remove' if is_in else 'add to the history'}"
        lines.append(
            f'<li><button type="button" class="gram-row" data-act="{action}" data-row="{row}" '
            f'aria-pressed="{str(is_in).lower()}" aria-label="{escape(label)}">{_item(engine, row)}'
            f'<span class="gram-sign" aria-hidden="true">{sign}</span></button></li>'
        )
    note = f'<p class="gram-note" role="status">{_count(count, "item")}{shown}</p>'
    return f'{note}<ul class="gram-list gram-scroll" tabindex="-1">{"".join(lines)}</ul>'


def history_view(engine: Engine, history: list[int]) -> str:
    """The history, newest first, with buttons to move and remove."""
    if not history:
        return '<p class="gram-empty">Nothing yet. Find something that you liked above, and add it.</p>'
    newest_first, lines = history[::-1], []
    for place, row in enumerate(newest_first):
        title = escape(engine.titles[row])
        unread = " gram-unread" if place >= engine.max_history else ""
        tools = (
            ("newer", "↑", f"Move {title} up, nearer to now", place == 0),
            ("older", "↓", f"Move {title} down, further back", place == len(history) - 1),
            ("remove", "✕", f"Remove {title}", False),
        )
        buttons = "".join(
            f'<button type="button" data-act="{action}" data-row="{row}" title="{label}" aria-label="{label}"'
            f"{' disabled' if is_off else ''}>{sign}</button>"
            for action, sign, label, is_off in tools
        )
        lines.append(
            f'<li class="gram-row{unread}"><span class="gram-rank">{place + 1}</span>{_item(engine, row)}'
            f'<span class="gram-tools">{buttons}</span></li>'
        )
    limit = f"; the model reads the newest {engine.max_history}" if len(history) > engine.max_history else ""
    note = f'<p class="gram-note">{_count(len(history), "item")}, newest first{limit}</p>'
    return f'{note}<ol class="gram-list gram-scroll">{"".join(lines)}</ol>'


def results_view(engine: Engine, found: Found, history: list[int]) -> str:
    """The recommendations, best first; each row shows why. `history`: what it is now."""
    if not found.items:
        return '<p class="gram-empty">Build a history, then press <b>Recommend</b>.</p>'
    lines = []
    for place, item in enumerate(found.items):
        lines.append(
            f'<li><button type="button" class="gram-row" data-act="why" data-row="{place}" '
            f'aria-pressed="{str(place == found.chosen).lower()}"><span class="gram-rank">{place + 1}</span>'
            f'{_item(engine, item.row)}<span class="gram-score">{_number(item.score)}</span></button></li>'
        )
    is_stale = found.history != tuple(history)
    note = "The history has changed: recommend again." if is_stale else "Choose one to see why."
    state = " gram-stale" if is_stale else ""
    return (
        f'<p class="gram-note{state}" role="status">{note}<span class="gram-right" title="Mean log-probability of the '
        f'tokens of the item\'s ID">score</span></p><ol class="gram-list{state}">{"".join(lines)}</ol>'
    )


def message_view(message: str) -> str:
    """What a visitor can put right."""
    return f'<p class="gram-message" role="alert">{escape(message)}</p>'


def why_view(engine: Engine, found: Found) -> str:
    """Why the chosen one of the recommendations: attention, and its ID spelled out."""
    if not found.items:
        return '<p class="gram-empty">What the model looked at, and how it spelled the item out, is shown here.</p>'
    item = found.items[found.chosen]
    read = found.history[::-1][: engine.max_history]
    bars = [
        _bar(f'<span class="gram-rank">{place}</span>{escape(engine.titles[row])}', item.item_shares[place - 1])
        for place, row in enumerate(read, start=1)
    ]
    bars.append(_bar("<i>the history as a whole</i>", item.prompt_share, "gram-whole"))
    return (
        f'<h3>{escape(engine.titles[item.row])}</h3><p class="gram-note">no. {found.chosen + 1} · id '
        f"{escape(engine.item_ids[item.row])} · score {_number(item.score)}</p>"
        "<h4>What it looked at</h4>"
        '<p class="gram-note">Share of the decoder\'s attention while it spelled this item out.</p>'
        f'<ol class="gram-bars">{"".join(bars)}</ol>'
        "<h4>How it spelled the ID</h4>"
        '<p class="gram-note">Token by token down the tree of IDs: the probability of each among the tokens that lead '
        "to an item, and the items left.</p>"
        f'<ol class="gram-steps">{_start(engine)}{"".join(map(_step, item.steps))}</ol>'
    )


def _item(engine: Engine, row: int) -> str:
    details = " · ".join(filter(None, (engine.item_ids[row], engine.details[row])))
    return (
        f'<span class="gram-item"><bdi class="gram-title">{escape(engine.titles[row])}</bdi>'
        f'<bdi class="gram-details" title="{escape(details)}">{escape(details)}</bdi></span>'
    )


def _bar(label: str, share: float, name: str = "") -> str:
    return (
        f'<li class="{name}"><span class="gram-label">{label}</span><span class="gram-value">{_percent(share)}</span>'
        f'<span class="gram-track"><span style="width:{100 * share:.2f}%"></span></span></li>'
    )


def _start(engine: Engine) -> str:
    count = len(engine.item_ids)
    return f'<li class="gram-start"><span>start</span><span class="gram-left">{_count(count, "item")}</span></li>'


def _step(step: Step) -> str:
    token = "<i>end</i>" if step.token == END else f"<code>{escape(step.token)}</code>"
    tokens = f'of {step.num_choices}<span class="gram-wide"> tokens</span>'
    choices = '<span class="gram-wide">the only one</span>' if step.num_choices == 1 else tokens
    return (
        f'<li><span class="gram-token">{token}</span><span class="gram-chance"><span class="gram-track">'
        f'<span style="width:{100 * step.probability:.2f}%"></span></span>'
        f'<span class="gram-value">{_percent(step.probability)}</span> '
        f'<span class="gram-choices">{choices}</span></span>'
        f'<span class="gram-left">{_count(step.num_items_left, "item")}</span></li>'
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _number(score: float) -> str:
    return f"{score:.3f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"
