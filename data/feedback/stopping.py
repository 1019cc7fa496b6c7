"""The stop rule: the quota is judged and people agree on it, or every item has its votes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sqlalchemy as sa

from data.feedback.history import counted_votes
from data.feedback.stages import StageSettings
from data.feedback.store import Store
from data.feedback.summary import alphas
from data.feedback.tables import items, stages

# Alpha is read from all votes, so it is asked for only after so many further items.
STEP = 25


@dataclass(frozen=True)
class Wanting:
    """What a stage still waits for; nothing, once its stop rule is met or a lead has closed it."""

    items: int
    votes: int
    of: int
    """All its items, those with a known answer aside."""
    judged: int


def wanting(store: Store, stage_id: int, prefix: str = "") -> Wanting:
    """All votes, the quota, the budget, or a lead's word: whichever comes first ends the waiting.

    With a `prefix`, only of items whose keys begin with it.
    """
    ours = sa.and_(
        items.c.stage_id == stage_id, items.c.is_gold == 0, items.c.key.startswith(prefix, autoescape=True)
    )
    with store.read() as connection:
        stage = connection.execute(sa.select(stages).where(stages.c.id == stage_id)).one()
        settings = StageSettings.model_validate(stage.settings)
        missing, votes = connection.execute(
            sa.select(
                sa.func.count(), sa.func.coalesce(sa.func.sum(items.c.needed - items.c.judged), 0)
            ).where(ours, items.c.judged < items.c.needed, items.c.flags < settings.flags_to_close)
        ).one()
        total, judged = connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(items.c.judged), 0)).where(ours)
        ).one()
    left = None if settings.budget is None else max(0, settings.budget - stage.judged)
    if left == 0 or stage.stopped is not None or stage.state == "closed":
        return Wanting(0, 0, total, judged)
    return Wanting(missing, votes if left is None else min(votes, left), total, judged)


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
