"""On a real SLURM: the job that waits for people goes on by itself when they have voted at the label server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from data.feedback.stopping import Wanting, wanting
from data.feedback.store import Store
from data.feedback.votes import submit
from pipelines import state
from pipelines.label_release import Releaser, job_place
from tests import labelling
from tests.handmade import VOTES_RECIPE, give_answers, heliograph, until, write_recipe
from tests.label_client import Client, serve
from tests.labelling import BEST, a_stage, annotators, given
from tests.slurm_cluster import SITE, Cluster, running, submitted

location, store, sqlite = labelling.location, labelling.store, labelling.sqlite
PEOPLE = VOTES_RECIPE.replace(
    VOTES_RECIPE[VOTES_RECIPE.index("    critic:") :], "    critic: {kind: people, votes_per_item: 1}\n"
)


def test_what_a_stage_still_wants(store: Store) -> None:
    stage = a_stage(store, items=3, overlap=2, budget=4)
    one, other = annotators(store, 2)
    assert wanting(store, stage.id) == Wanting(3, 4, 3, 0)
    for n in range(2):
        for person in (one, other):
            item = given(store, stage, person)
            submit(store, stage.id, person, item.item_id, BEST, f"{n}-{person}")
    assert wanting(store, stage.id) == Wanting(0, 0, 3, 4)


def test_a_folder_knows_its_run(tmp_path: Path) -> None:
    deep = tmp_path / "runs" / "demo" / "loop" / "iteration-2"
    deep.mkdir(parents=True)
    assert job_place(deep) is None
    (tmp_path / "runs" / "demo" / state.RECIPE).write_text("{}")
    assert job_place(deep) == (tmp_path / "runs" / "demo", "loop")
    assert job_place(tmp_path / "runs") is None


def test_without_a_job_nothing_is_asked_or_said(sqlite: Store, tmp_path: Path) -> None:
    stage = a_stage(sqlite, items=1, overlap=1)
    person = annotators(sqlite, 1)[0]
    run = tmp_path / "demo"
    (run / "pick").mkdir(parents=True)
    (run / state.RECIPE).write_text("{}")
    said: list[str] = []
    releaser = Releaser(sqlite, stage.id, run / "pick", said.append)
    releaser.look()
    submit(sqlite, stage.id, person, given(sqlite, stage, person).item_id, BEST, "k")
    releaser.look()
    assert said == []
    assert not releaser.settled  # a job may be submitted later


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as found:
        yield found


@pytest.mark.slurm
def test_the_label_server_releases_the_job_that_waited(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, PEOPLE)
    run = give_answers(recipe, tmp_path / "runs")
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    jobs = submitted(recipe, site, cluster)
    until(lambda: cluster.field(jobs["pick"], "Reason") == "job_requeued_in_held_state", 60)
    added = heliograph("label", "people", "add", run / "pick", "Ada", cwd=tmp_path)
    token = added.stdout.strip().rsplit("/", 1)[1]
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    server, url = serve(run / "pick")
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            ada = Client(http, token).enter()
            while (item := ada.next()["item"]) is not None:
                assert cluster.field(jobs["pick"], "Reason") == "job_requeued_in_held_state"
                assert ada.vote(item).status_code == 200
        assert cluster.until_ended(jobs, 90) == {"pick": "COMPLETED"}
    finally:
        server.terminate()
        said = server.communicate(timeout=30)[0]
    assert f"the votes are in: released job {jobs['pick']}, which goes on with pick" in said
    assert (run / "pick" / state.DONE).is_file()
