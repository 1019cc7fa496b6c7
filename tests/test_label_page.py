"""The label page in a real browser: by keyboard, mouse and finger, without a connection, in two tabs, for a lead."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data.feedback import tables
from data.feedback.assignment import Assignment, next_item
from data.feedback.ballots import Ballot
from data.feedback.history import history
from data.feedback.items import NewItem, add_items
from data.feedback.leases import release_expired
from data.feedback.people import add_person, get_person
from data.feedback.stages import StageSettings, create_stage, set_state
from data.feedback.store import Store
from data.feedback.votes import submit
from data.feedback.web.app import Served, create_app
from data.feedback.web.guard import Pace
from tests.browser import Watched, chromium, opened
from tests.labelling import check_counters, rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
# Set to write docs/images/label-*.png anew.
PICTURES = os.environ.get("LABEL_PICTURES")
IMAGES = Path(__file__).parent.parent / "docs" / "images"
ALL_KINDS = ("best", "choose", "rank", "tie", "skip", "flag", "edit")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class Site:
    """A served stage that can be taken off the network and put back."""

    def __init__(self, store: Store, stage: Any, folder: Path) -> None:
        self.store, self.stage, self.folder = store, stage, folder
        self.url = ""

    def link(self, name: str = "Ada", role: Any = "annotator") -> str:
        return f"{self.url}/enter/{add_person(self.store, name, role)[1]}"

    @property
    def votes(self) -> list[Any]:
        return rows(self.store, tables.votes)

    def last_words(self, name: str = "Ada") -> list[tuple[str, str, Any]]:
        """(item, kind, choice), oldest first."""
        found = history(self.store, self.stage.id, get_person(self.store, name).id, current=True)
        return [(one.item_key, one.kind, one.choice) for one in reversed(found)]


@contextmanager
def site_of(folder: Path, items: list[NewItem], **settings: Any) -> Iterator[Site]:
    import uvicorn

    with Store(folder / "label.sqlite") as store:
        stage = create_stage(
            store, "telegrams/pick", StageSettings(**{"gold_rate": 0.0, "order": "random", **settings})
        )
        add_items(store, stage.id, items)
        site = Site(store, stage, folder)
        app = create_app(Served(store, stage.id, folder), pace=Pace(1000, 1000))
        config = uvicorn.Config(app, port=0, access_log=False, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        site.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield site
        finally:
            server.should_exit = True
            thread.join(20)


def plain(count: int, width: int = 2) -> list[NewItem]:
    return [
        NewItem(f"i{n}", f"Prompt {n}", [{"text": f"answer {n}-{c}"} for c in range(width)])
        for n in range(count)
    ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_of(tmp_path, plain(12), kinds=ALL_KINDS, overlap=2) as found:
        yield found


@contextmanager
def at_work(browser: Browser, link: str, **context: Any) -> Iterator[Watched]:
    with opened(browser, link, **context) as watched:
        watched.page.wait_for_selector(".card")
        rest(watched.page)
        yield watched


def rest(page: Page) -> None:
    """The page takes no second answer so soon after the first."""
    page.wait_for_timeout(330)


def saved(page: Page) -> None:
    wait(page, "document.querySelector('#saved').dataset.state === 'idle'")


def wait(page: Page, expression: str, arg: Any = None, timeout: float = 20_000) -> None:
    """As Playwright's wait_for_function, which evaluates text in the page: our policy refuses that, as it should."""
    until(lambda: page.evaluate(expression, arg), timeout / 1000)


def until(happened: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def prompt(page: Page) -> str:
    return page.inner_text("#prompt")


def texts(page: Page) -> list[str]:
    return page.locator(".card .text").all_inner_texts()


def item_of(page: Page) -> str:
    return f"i{prompt(page).split()[-1]}"


def index_at(page: Page, place: int) -> int:
    return int(texts(page)[place].split("-")[-1])


def test_a_batch_by_keyboard_in_every_kind(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link()) as watched:
        page, keys = watched.page, watched.page.keyboard
        assert "/enter/" not in page.url
        expected: list[tuple[str, str, Any]] = []

        def done(kind: str, choice: Any) -> None:
            expected.append((item_of(page), kind, choice))
            keys.press("Enter") if kind not in ("skip", "flag") else None
            rest(page)

        keys.press("Enter")  # nothing is picked: nothing is sent
        keys.press("2")
        keys.press("2")
        keys.press("ArrowRight")
        done("best", index_at(page, 1))
        keys.press("0")
        done("tie", None)
        # Space picks the candidate that has the focus.
        page.locator(".pick").nth(0).focus()
        keys.press("Space")
        done("best", index_at(page, 0))
        keys.press("m")
        keys.press("1")
        keys.press("2")
        keys.press("2")
        done("choose", [index_at(page, 0)])
        keys.press("0")
        done("choose", [])
        keys.press("m")
        keys.press("2")
        keys.press("1")
        ranks = [0, 0]
        ranks[index_at(page, 1)], ranks[index_at(page, 0)] = 1, 2
        done("rank", ranks)
        before = item_of(page)
        keys.press("s")
        expected.append((before, "skip", None))
        rest(page)
        before = item_of(page)
        keys.press("f")
        page.locator("#comment").fill("both are empty")
        keys.press("Control+Enter")
        expected.append((before, "flag", None))
        rest(page)
        keys.press("m")
        base = index_at(page, 0)
        keys.press("1")
        keys.press("e")
        page.locator("#better").fill("A better text 🜂")
        keys.press("Control+Enter")
        done("best", base)
        saved(page)
        assert site.last_words() == expected
        found = history(site.store, site.stage.id, current=True)
        assert found[-1].strength == 3
        assert found[1].comment == "both are empty"
        assert found[0].edit is not None
        assert (found[0].edit.text, found[0].edit.candidate) == ("A better text 🜂", base)
        assert all(one.seconds is not None and 0.2 < one.seconds < 60 for one in found)
        assert watched.complaints == []
    check_counters(site.store, site.stage)


def test_a_batch_by_mouse_a_double_click_is_one_answer(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link(), viewport={"width": 1280, "height": 800}) as watched:
        page = watched.page
        for n in range(3):
            before = prompt(page)
            page.locator(".card").nth(n % 2).click()
            assert page.locator(".card.picked").count() == 1
            page.locator("#strength label").nth(1).click()
            page.locator("#confirm").dblclick()
            wait(page, "before => document.querySelector('#prompt').innerText !== before", arg=before)
            rest(page)
        saved(page)
        assert [one.strength for one in site.votes] == [2, 2, 2]
        page.locator("#skip").dblclick()
        rest(page)
        saved(page)
        assert len(site.votes) == 4
        # Words that somebody marks to copy them are no answer.
        page.locator(".card .text").nth(0).dblclick(position={"x": 24, "y": 14})
        assert page.evaluate("String(getSelection())").strip() != ""
        assert watched.complaints == []


def test_what_was_answered_is_taken_back_by_key_and_from_the_list(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link()) as watched:
        page, keys = watched.page, watched.page.keyboard
        first = item_of(page)
        keys.press("1")
        keys.press("Enter")
        rest(page)
        second = item_of(page)
        assert second != first
        keys.press("u")
        # The item is there again, with the answer as it was.
        assert item_of(page) == first
        assert page.locator(".card").nth(0).get_attribute("class") == "card picked"
        rest(page)
        keys.press("2")
        other = index_at(page, 1)
        keys.press("Enter")
        rest(page)
        assert item_of(page) == second
        saved(page)
        assert site.last_words() == [(first, "best", other)]
        assert [one.kind for one in site.votes] == ["best", "retract", "best"]
        # After a reload the list comes from the server.
        page.reload()
        page.wait_for_selector(".card")
        rest(page)
        keys.press("h")
        assert page.locator("#history li").count() == 1
        page.locator("#history li button").click()
        assert item_of(page) == first
        until(lambda: [one.kind for one in site.votes][-1] == "retract")
        assert site.last_words() == []
        assert watched.complaints == []
    check_counters(site.store, site.stage)


def test_without_a_connection_answers_are_kept_shown_and_sent_once(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link()) as watched:
        page, keys = watched.page, watched.page.keyboard
        wait(page, "queue.length === 2")
        page.context.set_offline(True)
        answered: list[str] = []
        for _ in range(2):
            answered.append(item_of(page))
            keys.press("1")
            keys.press("Enter")
            rest(page)
        wait(page, "document.querySelector('#saved').dataset.state === 'offline'")
        assert page.inner_text("#saved-text") == "no connection; 2 answers kept in this browser"
        assert page.inner_text("#over-title") == "Waiting for the connection"
        assert site.votes == []
        # Taken back while still away: the vote, its undoing and the other answer go out in this order.
        keys.press("u")
        assert item_of(page) == answered[1]
        rest(page)
        keys.press("2")
        keys.press("Enter")
        page.context.set_offline(False)
        page.wait_for_selector(".card", timeout=20000)
        saved(page)
        assert [item for item, _, _ in site.last_words()] == answered
        assert [one.kind for one in site.votes] == ["best", "best", "retract", "best"]
        assert page.evaluate("outbox.waiting") == 0
    check_counters(site.store, site.stage)


def test_an_answer_whose_receipt_was_lost_is_one_vote(browser: Browser, site: Site) -> None:
    """The server has it, the browser does not know: it sends the same press again."""
    with at_work(browser, site.link()) as watched:
        page = watched.page
        lost: list[str] = []

        def drop(route: Any) -> None:
            if len(lost) < 2:
                route.fetch()
                lost.append(route.request.post_data)
                route.abort()
            else:
                route.continue_()

        page.route("**/api/vote", drop)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        until(lambda: page.evaluate("1") and lost)
        assert page.inner_text("#saved-text") != "all answers saved"
        wait(page, "document.querySelector('#saved').dataset.state === 'idle'")
        assert len(lost) == 2
        assert len({json.loads(body)["key"] for body in lost}) == 1
        assert len(site.votes) == 1


def test_a_tab_that_was_closed_too_early_sends_its_answer_when_it_is_opened_again(
    browser: Browser, site: Site
) -> None:
    link = site.link()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(link)
        page.wait_for_selector(".card")
        rest(page)
        page.route("**/api/vote", lambda route: route.abort())
        item = item_of(page)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        wait(page, "document.querySelector('#saved').dataset.state === 'offline'")
        page.close()
        assert site.votes == []
        # Another person in the same browser does not send it as their own.
        eve = context.new_page()
        eve.goto(site.link("Eve"))
        eve.wait_for_selector(".card")
        rest(eve)
        eve.close()
        assert site.votes == []
        again = context.new_page()
        again.goto(link)
        again.wait_for_selector(".card")
        saved(again)
        assert [one for one, _, _ in site.last_words()] == [item]
    finally:
        context.close()


def test_two_tabs_reload_and_back_make_no_second_vote(browser: Browser, site: Site) -> None:
    link = site.link()
    context = browser.new_context()
    try:
        one, other = context.new_page(), context.new_page()
        for page in (one, other):
            page.goto(link)
            page.wait_for_selector(".card")
        rest(other)
        assert item_of(one) == item_of(other)
        first = item_of(one)
        one.keyboard.press("1")
        one.keyboard.press("Enter")
        saved(one)
        # The other tab has heard of it, and goes on.
        wait(other, "before => !document.querySelector('#prompt').innerText.endsWith(before)", arg=first[1:])
        assert "another tab" in other.inner_text("#notice")
        rest(other)
        # Two browsers hear nothing of each other: the server tells them.
        third_context = browser.new_context()
        third = third_context.new_page()
        third.goto(link)
        third.wait_for_selector(".card")
        rest(third)
        both = item_of(third)
        until(lambda: item_of(one) == both or item_of(other) == both)
        tab = one if item_of(one) == both else other
        tab.keyboard.press("1")
        tab.keyboard.press("Enter")
        saved(tab)
        third.keyboard.press("2")
        third.keyboard.press("Enter")
        third.wait_for_selector("#notice:not([hidden])")
        assert "The first answer counts" in third.inner_text("#notice")
        third_context.close()
        one.goto(f"{site.url}/api/me")
        one.go_back()
        one.wait_for_selector(".card")
        one.reload()
        one.wait_for_selector(".card")
        items = [vote.item_id for vote in site.votes]
        assert len(items) == len(set(items)) == 2
    finally:
        context.close()
    check_counters(site.store, site.stage)


HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"


HIDE = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true})"
CAME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"


def look_away(page: Page, away: bool) -> None:
    """As another tab before this one does; Playwright itself shows every page."""
    page.evaluate(HIDE % str(away).lower())
    page.evaluate(CAME_BACK)


def answered_by_another(site: Site, key: str, name: str = "Bob") -> None:
    """Somebody else is given items until it is this one, and answers it."""
    other = add_person(site.store, name)[0].id
    held: list[int] = []

    def mine() -> Assignment | None:
        found = next_item(site.store, site.stage.id, other, holding=held)
        if isinstance(found, Assignment):
            held.append(found.item_id)
            return found if found.key == key else None
        return None

    until(lambda: (found := mine()) is not None and submit(
        site.store, site.stage.id, other, found.item_id, Ballot("best", 0, 1), f"press-{key}"
    ))  # fmt: skip


def test_an_item_stays_with_whoever_looks_at_it_and_no_longer(browser: Browser, tmp_path: Path) -> None:
    with (
        site_of(tmp_path, plain(2), overlap=1, lease_seconds=3, max_leases=1) as site,
        at_work(browser, site.link()) as watched,
    ):
        page = watched.page
        key = item_of(page)
        other = add_person(site.store, "Bob")[0].id
        for _ in range(10):  # twice as long as a lease
            page.wait_for_timeout(600)
            page.mouse.move(5, 5)
            found = next_item(site.store, site.stage.id, other)
            assert isinstance(found, Assignment)
            assert found.key != key
        look_away(page, True)
        until(lambda: release_expired(site.store, site.stage.id) > 0)
        # It is still free when its person looks again, who has it as before.
        look_away(page, False)
        until(
            lambda: any(
                one.status == "running" and one.person_id != other for one in rows(site.store, tables.leases)
            )
        )
        assert item_of(page) == key
        assert page.locator("#notice").is_hidden()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        saved(page)
        assert site.last_words() == [(key, "best", index_of(key, site))]
        assert watched.complaints == []


def index_of(key: str, site: Site) -> int:
    """The candidate that stood first for Ada."""
    item = next(one for one in rows(site.store, tables.items) if one.key == key)
    ada = get_person(site.store, "Ada").id
    return next(
        one.shown[0]
        for one in rows(site.store, tables.leases)
        if one.item_id == item.id and one.person_id == ada
    )


def test_who_comes_back_too_late_is_told_and_keeps_the_text(browser: Browser, tmp_path: Path) -> None:
    with (
        site_of(tmp_path, plain(6), overlap=1, lease_seconds=2, max_leases=1, kinds=ALL_KINDS) as site,
        at_work(browser, site.link()) as watched,
    ):
        page = watched.page
        key = item_of(page)
        page.keyboard.press("e")
        page.fill("#better", "a long thought about\nlighthouses")
        page.keyboard.press("Escape")
        assert page.locator("#edited").inner_text() == "an unfinished text ✎"
        page.reload()
        page.wait_for_selector(".card")
        assert item_of(page) == key
        page.keyboard.press("e")  # neither Escape nor a reload has lost it
        assert page.input_value("#better") == "a long thought about\nlighthouses"
        look_away(page, True)
        answered_by_another(site, key)
        look_away(page, False)
        wait(page, "!document.querySelector('#notice').hidden")
        assert "other people judged the item" in page.locator("#notice").inner_text()
        until(lambda: item_of(page) != key)
        assert page.locator("#editing").is_hidden()
        page.reload()
        page.wait_for_selector(".card")
        page.keyboard.press("h")
        assert page.input_value("#refused textarea") == "a long thought about\nlighthouses"
        page.get_by_role("button", name="Let it go").click()
        assert page.locator("#refused").is_hidden()
        assert [vote for vote in site.votes if vote.person_id == get_person(site.store, "Ada").id] == []
        assert watched.complaints == []


def test_an_answer_that_is_refused_after_all_gives_its_text_back(browser: Browser, tmp_path: Path) -> None:
    """Written and confirmed without a connection; by the time it is sent, somebody else has answered."""
    with (
        site_of(tmp_path, plain(6), overlap=1, lease_seconds=2, max_leases=1, kinds=ALL_KINDS) as site,
        at_work(browser, site.link()) as watched,
    ):
        page = watched.page
        key = item_of(page)
        page.context.set_offline(True)
        page.keyboard.press("e")
        page.fill("#better", "better than both")
        page.keyboard.press("Control+Enter")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        answered_by_another(site, key)
        page.context.set_offline(False)
        wait(page, "!document.querySelector('#notice').hidden")
        notice = page.locator("#notice").inner_text()
        assert "came too late" in notice
        assert "kept under Last answers" in notice
        assert page.locator("#count").inner_text() == "0 answered"
        page.keyboard.press("h")
        assert page.input_value("#refused textarea") == "better than both"
        assert len(site.votes) == 1


def test_text_is_never_run_and_code_maths_and_scripts_are_readable(browser: Browser, tmp_path: Path) -> None:
    code = "Try this:\n```python\nif a < b:\n    print('<b>')\n```\nand `x < 1`."
    maths = "$\\frac{a^2}{\\sqrt{b_1}} \\le \\alpha$ and $\\unknown{x}$, at $5 and $6."
    items = [
        NewItem(
            "hostile", HOSTILE, [{"text": HOSTILE}, {"text": code}, {"text": maths}, {"text": "مرحبا\nhello"}]
        )
    ]
    with (
        site_of(tmp_path, items, question=HOSTILE[:90], guidelines=HOSTILE, blind_order=False) as site,
        at_work(browser, site.link("<b>Ada</b>")) as watched,
    ):
        page = watched.page
        assert "owned" not in page.title()
        assert page.locator("#prompt").inner_text() == HOSTILE
        assert page.locator("main b, main script, #person b").count() == 0
        cards = page.locator(".card .text")
        assert cards.nth(0).inner_text() == HOSTILE
        assert cards.nth(1).locator("pre code").inner_text() == "if a < b:\n    print('<b>')"
        assert cards.nth(1).locator(".text > code, :scope > code").inner_text() == "x < 1"
        found = cards.nth(2).locator("math")
        assert found.count() == 1
        parts = "e => ['mfrac msup', 'mfrac msqrt msub'].map((path) => e.querySelector(path).textContent)"
        assert found.evaluate(parts) == ["a2", "b1"]
        # What is not known is shown as it was written, and prices are no formulas.
        assert cards.nth(2).locator("code.tex").inner_text() == "$\\unknown{x}$"
        assert "$5 and $6" in cards.nth(2).inner_text()
        ways = (
            "e => { const r = document.createRange(); r.selectNodeContents(e); "
            "const [a, b] = [...r.getClientRects()].filter((one) => one.width); "
            "const box = e.getBoundingClientRect(); return [box.right - a.right < 30, b.left - box.left < 30]; }"
        )
        assert cards.nth(3).evaluate(ways) == [True, True]
        assert watched.complaints == []


def test_differences_are_marked_on_demand_and_are_right(browser: Browser, tmp_path: Path) -> None:
    candidates = [
        {"text": "SHIP ARRIVES TUESDAY AT 18:40 STOP"},
        {"text": "SHIP ARRIVES MONDAY AT 18:40 WITH LAMPS STOP"},
    ]
    with (
        site_of(tmp_path, [NewItem("a", "p", candidates)], blind_order=False) as site,
        at_work(browser, site.link()) as watched,
    ):
        page = watched.page
        assert page.locator("mark").count() == 0
        page.keyboard.press("d")
        assert page.locator(".card").nth(0).locator("mark").all_inner_texts() == ["TUESDAY"]
        assert page.locator(".card").nth(1).locator("mark").all_inner_texts() == ["MONDAY", "WITH LAMPS"]
        assert texts(page) == [one["text"] for one in candidates]
        page.keyboard.press("d")
        assert page.locator("mark").count() == 0
        # Against another way to work the longest common row out.
        for seed in range(20):
            assert page.evaluate(COMPARED, seed), seed


COMPARED = """seed => {
  let state = seed + 1;
  const next = (n) => (state = (state * 48271) % 2147483647) % n;
  const text = () => [...Array(next(14))].map(() => "abcd"[next(4)]).join(" ");
  const one = text(), other = text();
  const longest = (x, y) => !x.length || !y.length ? 0 : x[0] === y[0] ? 1 + longest(x.slice(1), y.slice(1))
    : Math.max(longest(x.slice(1), y), longest(x, y.slice(1)));
  const [a, b] = differences(one, other);
  const marked = (ranges, i) => ranges.some(([start, end]) => start <= i && i < end);
  const left = (text, ranges) => [...text].filter((c, i) => c !== " " && !marked(ranges, i)).join("");
  const x = left(one, a), y = left(other, b);
  return x === y && x.length === longest(one.replace(/ /g, ""), other.replace(/ /g, ""));
}"""


def test_the_next_item_is_there_at_once_and_nothing_jumps(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link(), viewport={"width": 1280, "height": 800}) as watched:
        page = watched.page
        wait(page, "queue.length === 2")
        page.evaluate("""() => { window.shifts = 0; new PerformanceObserver((list) => {
          for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts += one.value;
        }).observe({ type: 'layout-shift', buffered: false }); }""")
        bar = page.locator("#confirm").bounding_box()
        # The answer takes its time on the way; the next item does not wait for it.
        page.route("**/api/vote", lambda route: (time.sleep(0.5), route.continue_()))
        before = prompt(page)
        page.keyboard.press("1")
        took = page.evaluate(
            """async (before) => { const start = performance.now();
          document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', code: 'Enter', bubbles: true }));
          return [document.querySelector('#prompt').innerText !== before, performance.now() - start]; }""",
            before,
        )
        assert took[0]
        assert took[1] < 100
        assert page.locator("#saved").get_attribute("data-state") == "sending"
        saved(page)
        for _ in range(3):
            rest(page)
            page.keyboard.press("1")
            page.keyboard.press("Enter")
        rest(page)
        assert page.locator("#confirm").bounding_box() == bar
        assert page.evaluate("window.shifts") < 0.02


def test_a_screen_reader_and_the_tab_key_find_everything(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link()) as watched:
        page = watched.page
        for name in (
            "Confirm",
            "Undo",
            "Skip",
            "Flag",
            "Differences",
            "Write better",
            "No difference",
            "Last answers",
        ):
            assert page.get_by_role("button", name=name).count() == 1, name
        assert page.get_by_role("button", name="Candidate 1").get_attribute("aria-pressed") == "false"
        page.keyboard.press("1")
        assert page.get_by_role("button", name="Candidate 1, better").get_attribute("aria-pressed") == "true"
        assert "candidate 1 is better" in page.inner_text("#heard")
        assert page.get_by_role("region", name="Prompt").count() == 1
        # A fresh item takes the focus to its question; from there Tab goes prompt, candidates, buttons.
        assert page.evaluate("document.activeElement.id") == "question"
        order: list[str] = []
        for _ in range(16):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        stops = [one for one in ("prompt", "pick", "compare", "skip", "confirm") if one in order]
        assert stops == ["prompt", "pick", "compare", "skip", "confirm"]
        assert [order.index(one) for one in stops] == sorted(order.index(one) for one in stops)
        # In a dialog the keys of the page rest, and Escape leads back.
        page.keyboard.press("?")
        page.keyboard.press("u")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_readable_on_phone_and_desk_by_day_and_night(
    browser: Browser, tmp_path: Path, width: int, scheme: Any
) -> None:
    touch = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    with (
        site_of(
            tmp_path, showcase(tmp_path), kinds=ALL_KINDS, question="Which telegram would you send?"
        ) as site,
        at_work(
            browser, site.link(), viewport={"width": width, "height": 844}, color_scheme=scheme, **touch
        ) as watched,
    ):
        page = watched.page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for place in ("#confirm", "#undo", "#none"):
            box = page.locator(place).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["height"] >= 40
        for place in (
            "#question",
            ".card .text",
            "#saved-text",
            "#doing",
            "#confirm",
            ".segments span",
            "#count",
        ):
            assert contrast(page, place) >= (2.2 if place == "#confirm" else 4.5), (place, scheme)
        if touch:
            page.tap("#more")
            page.tap("#compare")
            page.tap(".card >> nth=1")
            assert page.locator("#tools").is_hidden()
            page.tap("#confirm")
        else:
            page.keyboard.press("1")
            page.keyboard.press("Enter")
        saved(page)
        assert len(site.votes) == 1
        assert watched.complaints == []


def contrast(page: Page, place: str) -> float:
    """WCAG's ratio of the text's colour to the first ground behind it that is painted."""
    return page.locator(place).first.evaluate("""e => {
      const paint = (c) => {
        const x = document.createElement('canvas').getContext('2d');
        x.fillStyle = c; x.fillRect(0, 0, 1, 1);
        return [...x.getImageData(0, 0, 1, 1).data];
      };
      const f = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const light = ([r, g, b]) => .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
      let at = e, ground = [0, 0, 0, 0];
      while (at && !(ground = paint(getComputedStyle(at).backgroundColor))[3]) at = at.parentElement;
      const [a, b] = [light(paint(getComputedStyle(e).color)), light(ground)].sort((x, y) => y - x);
      return (a + .05) / (b + .05);
    }""")


def test_pauses_ends_and_bars_are_told(browser: Browser, tmp_path: Path) -> None:
    with site_of(tmp_path, plain(1), overlap=1) as site, at_work(browser, site.link()) as watched:
        page = watched.page
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        wait(page, "document.querySelector('#over-title').textContent === 'Done, thank you'")
        assert "has its votes" in page.inner_text("#over-why")
        page.keyboard.press("u")
        page.wait_for_selector(".card")
        saved(page)
        set_state(site.store, site.stage.id, "closed")
        rest(page)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#notice:not([hidden])")
        assert "the stage is closed" in page.inner_text("#notice")


def test_a_lead_watches_and_steers(browser: Browser, site: Site) -> None:
    with at_work(browser, site.link()) as ada, opened(browser, site.link("Lena", "lead")) as lead:
        page, board = ada.page, lead.page
        assert board.url.endswith("/lead")
        board.wait_for_selector("#people tr")
        for _ in range(2):
            page.keyboard.press("1")
            page.keyboard.press("Enter")
            rest(page)
        # The figures come by themselves.
        wait(board, "document.querySelector('#people tr td:nth-child(2)').textContent === '2'", timeout=20000)
        board.locator("#states [data-state=paused]").click()
        wait(board, "document.querySelector('#state').textContent === 'paused'")
        board.locator("#states [data-state=open]").click()
        wait(board, "document.querySelector('#state').textContent === 'open'")
        board.get_by_role("button", name="Bar Ada").click()
        board.locator("#bar-now").click()  # without a reason nothing happens
        board.locator("#reason").fill("<b>too</b> fast")
        board.locator("#bar-now").click()
        wait(board, "document.querySelector('#people').textContent.includes('barred: <b>too</b> fast')")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#notice:not([hidden])")
        assert "too" in page.inner_text("#notice")
        board.get_by_role("button", name="Lift the bar of Ada").click()
        wait(board, "!document.querySelector('#people').textContent.includes('barred:')")
        with board.expect_download() as download:
            board.get_by_role("link", name="Preference pairs").click()
        lines = Path(str(download.value.path())).read_text().splitlines()
        assert len(lines) == 2
        assert lead.complaints == []


def picture() -> bytes:
    """An evening by the sea, so that the pictures in the docs have one to show."""
    import math
    import struct
    import zlib

    def colour(x: int, y: int) -> tuple[int, int, int]:
        away = math.hypot(x - 300, y - 130)
        if y > 232 + 12 * math.sin(x / 38):
            return 38 + y // 14, 78 + y // 10, 112
        if away < 46:
            return 250, 214, 120
        return min(255, 240 - y // 3 + int(2400 / (away + 20))), max(0, 190 - y // 4), max(0, 150 - y // 6)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + b"".join(bytes(colour(x, y)) for x in range(480)) for y in range(320))
    head = struct.pack(">IIBBBBB", 480, 320, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


LOOP = "def fib(n: int) -> int:\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n"
DEFINITION = "def fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
STEPS = r"That takes about $\frac{\varphi^n}{\sqrt{5}}$ steps, where $\varphi = \frac{1 + \sqrt{5}}{2}$."


def showcase(folder: Path) -> list[NewItem]:
    (folder / "evening.png").write_bytes(picture())
    ask = "Turn this into a telegram: the supply ship will be at the northern lighthouse on Tuesday at 18:40."
    return [
        NewItem("ship", ask, [
            {"text": "SUPPLY SHIP AT NORTHERN LIGHTHOUSE TUESDAY 18:40 WITH THREE LAMPS STOP"},
            {"text": "SUPPLY SHIP AT LIGHTHOUSE TUESDAY 18:45 WITH LAMPS ON BOARD STOP"},
        ]),
    ]  # fmt: skip


@pytest.mark.skipif(not PICTURES, reason="LABEL_PICTURES=1 writes the pictures of the docs")
def test_the_pictures_of_the_docs(browser: Browser, tmp_path: Path) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    code = [
        {"text": "Keep the last two numbers:\n```python\n" + LOOP + "```\n`n` additions: $O(n)$."},
        {"text": "Use the definition:\n```python\n" + DEFINITION + "```\n" + STEPS},
    ]  # fmt: skip
    scene = NewItem("evening", "Why do people come to this beach in the evening?", [
        {"text": "The sun sets over the water, and the view at dusk is worth the walk."},
        {"text": "Because it is a beach, and people like beaches."},
        {"text": "The shops nearby are open late."},
    ], image="evening.png")  # fmt: skip
    fib = NewItem("fib", "Write a function for the n-th Fibonacci number, and say how long it takes.", code)
    reasons = ("choose", "skip", "flag", "edit")
    # name: what is asked, of which items, how wide, in which colours, in which kinds
    views: dict[str, tuple[str, list[NewItem], int, str, tuple[str, ...]]] = {
        "desk": ("Which answer is better?", [fib], 1280, "light", ALL_KINDS),
        "desk-dark": ("Which answer is better?", [fib], 1280, "dark", ALL_KINDS),
        "image": ("Which reasons fit?", [scene], 1280, "light", reasons),
        "image-dark": ("Which reasons fit?", [scene], 1280, "dark", reasons),
        "phone": ("Which one would you send?", showcase(tmp_path), 390, "light", ALL_KINDS),
        "phone-dark": ("Which one would you send?", showcase(tmp_path), 390, "dark", ALL_KINDS),
    }
    for name, (question, items, width, scheme, kinds) in views.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "evening.png").write_bytes(picture())
        phone = width < 500
        view: dict[str, Any] = {
            "viewport": {"width": width, "height": 760 if phone else 720},
            "color_scheme": scheme,
            **({"has_touch": True, "is_mobile": True, "device_scale_factor": 2} if phone else {}),
        }
        with (
            site_of(folder, items, kinds=kinds, blind_order=False, question=question) as site,
            at_work(browser, site.link(), **view) as watched,
        ):
            page = watched.page
            page.keyboard.press("1")
            if phone:
                page.keyboard.press("d")
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / f"label-{name}.png")
    lead_picture(browser, tmp_path)


def lead_picture(browser: Browser, folder: Path) -> None:
    import random

    dice = random.Random(4)
    (folder / "lead").mkdir()
    gold = [
        NewItem(f"g{n}", f"G {n}", [{"text": "a"}, {"text": "b"}], gold={"kind": "best", "choice": 0})
        for n in range(8)
    ]
    with site_of(folder / "lead", [*plain(80), *gold], overlap=3, gold_rate=0.15, kinds=ALL_KINDS) as site:
        moment = time.time() - 3000
        right = {"Ada": 0.92, "Bashir": 0.85, "Chiara": 0.8, "Dmitri": 0.5}
        people = {name: add_person(site.store, name)[0].id for name in right}
        for n in range(190):
            name = list(right)[n % 4]
            moment += dice.uniform(6, 22)
            item = next_item(site.store, site.stage.id, people[name], now=moment)
            if not isinstance(item, Assignment):
                continue
            true = 0 if item.key.startswith("g") else item.item_id % 2
            choice = true if dice.random() < right[name] else 1 - true
            if name == "Dmitri" and dice.random() < 0.8:
                choice = item.shown[0]
            ballot = Ballot("best", choice, dice.randint(1, 3), seconds=round(dice.uniform(4, 15), 1))
            if n == 77:
                ballot = Ballot("flag", comment="Both answers are cut off.")
            submit(
                site.store, site.stage.id, people[name], item.item_id, ballot, f"press-{n}", now=moment + 5
            )
        link = site.link("Lena", "lead")
        for name, width, scheme in (
            ("lead", 1280, "light"),
            ("lead-dark", 1280, "dark"),
            ("lead-phone", 390, "light"),
            ("lead-phone-dark", 390, "dark"),
        ):
            size = {"width": width, "height": 820}
            scale = 2 if width < 500 else 1
            with opened(
                browser, link, viewport=size, color_scheme=scheme, device_scale_factor=scale
            ) as watched:
                watched.page.wait_for_selector("#people tr")
                watched.page.wait_for_timeout(800)
                watched.page.screenshot(path=IMAGES / f"label-{name}.png")
