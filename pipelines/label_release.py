"""The label server's word to SLURM: a job that waits for people is released as soon as the votes are in."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from data.errors import RunError
from data.feedback.stopping import wanting
from data.feedback.store import Store
from pipelines import state

EVERY_SECONDS = 5.0


class Releaser:
    """Looks after one stage; asks SLURM only when the votes are in and a job was submitted for the stage."""

    def __init__(self, store: Store, stage_id: int, folder: Path, say: Callable[[str], None]) -> None:
        self.store = store
        self.stage_id = stage_id
        self.place = job_place(folder)
        self.say = say
        self.settled = False
        """This batch of votes is dealt with; more votes to come begin the next one."""
        self._told = ""

    def look(self) -> None:
        """Release the stage's job if it is held and nothing is missing. What goes wrong is said once, and tried on."""
        try:
            if wanting(self.store, self.stage_id).items:
                self.settled = False
            elif not self.settled:
                self._release()
        except (RunError, SQLAlchemyError) as fault:
            told = f"{fault.where}: {fault.what}" if isinstance(fault, RunError) else str(fault)
            if told != self._told:
                self._told = told
                self.say(
                    f"the votes are in, but no job was released ({told}); by hand: heliograph release RUN"
                )

    def _release(self) -> None:
        from pipelines.cluster import records
        from pipelines.cluster.jobs import jobs_of
        from pipelines.verbs import recipe_of
        from slurm.submit import release

        if self.place is None:
            return
        run_dir, stage = self.place
        if records.submitted(run_dir, stage) is None:
            return
        jobs = jobs_of(recipe_of(run_dir), run_dir)
        if jobs.unasked is not None:
            raise RunError(f"SLURM cannot be asked ({jobs.unasked})", where=str(run_dir))
        job = next(one for one in jobs.placed if one.stage == stage)
        if job.seen is not None and job.seen.held:
            release([job.submitted.job])
            self.settled = True
            self.say(f"the votes are in: released job {job.submitted.job}, which goes on with {stage}")
        # A job that is at work or on its way into the queue may yet find votes missing and be held.
        self.settled = self.settled or not job.alive


def job_place(folder: Path) -> tuple[Path, str] | None:
    """The run's folder and the stage that the folder belongs to, if it lies in a run."""
    whole = folder.absolute()
    for run_dir in whole.parents:
        if (run_dir / state.RECIPE).is_file():
            return run_dir, whole.relative_to(run_dir).parts[0]
    return None


@contextmanager
def releasing(store: Store, stage_id: int, folder: Path, say: Callable[[str], None]) -> Generator[None]:
    """While the block runs, a thread looks every few seconds; without SLURM or outside a run there is none."""
    releaser = Releaser(store, stage_id, folder, say)
    if releaser.place is None or shutil.which("scontrol") is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            releaser.look()

    thread = threading.Thread(target=watch, name="releaser", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
