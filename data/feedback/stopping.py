"""The stop rule: the quota is judged and people agree on it, or every item has its votes."""

from __future__ import annotations

import math

import sqlalchemy as sa

from data.feedback.history import counted_votes
from data.feedback.stages import StageSettings
from data.feedback.store import Store
from data.feedback.summary import alphas
from data.feedback.tables import items, stages

# Alpha is read from all votes, so it is asked for only after so many further items.
STEP = 25


def check_due(connection: sa.Connection, stage_id: int, settings: StageSettings) -> bool:
    """An item has just been judged: is it time to ask whether the stage may stop?"""
    if settings.quota is None:
        return False
    done = connection.execute(sa.select(stages.c.done).where(stages.c.id == stage_id)).scalar_one()
    return done >= settings.quota and (done - settings.quota) % STEP == 0


def check_stop(store: Store, stage_id: int) -> str | None:
    """Stop giving out items if the quota is reached and agreement is; says why, or None.

    Agreement is the lowest alpha of the kinds of vote in use: each has to reach what is asked.
    """
    with store.read() as connection:
        row = connection.execute(sa.select(stages).where(stages.c.id == stage_id)).one()
        settings = StageSettings.model_validate(row.settings)
        if settings.quota is None or settings.agreement is None or row.done < settings.quota:
            return None
        widths = {
            item.id: len(item.candidates)
            for item in connection.execute(
                sa.select(items.c.id, items.c.candidates).where(
                    items.c.stage_id == stage_id, items.c.is_gold == 0, items.c.judged > 1
                )
            )
        }
        votes = [vote for vote in counted_votes(connection, stage_id) if vote.item_id in widths]
    found = alphas(votes, widths, samples=0)
    if not found or any(math.isnan(one.value) or one.value < settings.agreement for one in found.values()):
        return None
    worst = min(one.value for one in found.values())
    why = f"{row.done} items are judged, and alpha is {worst:.3f}, at least {settings.agreement:g}"
    with store.write() as connection:
        connection.execute(sa.update(stages).where(stages.c.id == stage_id).values(stopped=why))
    return why
