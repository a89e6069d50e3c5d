"""The annotation page in a real headless Chromium, against a real server process that is killed on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaif.annotate.publish import publish
from rlaif.annotate.store import AnswerStore
from rlaif.jsonl import read_jsonl
from rlaif.records import Edit, Judgment
from rlaif.run_folder import Run
from tests.annotated import make_run, pair, pairs

pytest.importorskip("fastapi", reason="needs the extra `annotate`")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERVE = """
import sys
from pathlib import Path
from rlaif.cli.people import annotate
annotate(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None)
"""
READY = "#pair[data-ready]"


class Server:
    """`rlaif annotate` in a process of its own."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.port = "0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.run.folder), self.port], stdout=subprocess.PIPE, text=True
        )
        self.address = next(found[0] for line in self.process.stdout if (found := re.search(r"http://\S+", line)))
        self.home = self.address.partition("?")[0]
        self.port = re.findall(r":(\d+)/", self.address)[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self, how: int = signal.SIGINT) -> str:
        """What it says at its end."""
        self.process.send_signal(how)
        said, _ = self.process.communicate()
        assert self.process.returncode == 0
        return said


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    started = Server(make_run(tmp_path / "run", getattr(request, "param", pairs(6)), recipe=True))
    yield started
    started.kill()


def opened(browser: sync_api.Browser, server: Server, name: str) -> sync_api.Page:
    """A browser of this annotator's own, at the first pair."""
    page = browser.new_context().new_page()
    page.set_default_timeout(300_000)
    page.goto(server.address)
    page.fill("#name-field", name)
    page.press("#name-field", "Enter")
    page.wait_for_selector(READY)
    return page


def shown(page: sync_api.Page) -> str:
    """The id of the pair on the screen, which is ready to be answered."""
    found = page.wait_for_selector(READY)
    assert found
    return found.get_attribute("data-ready") or ""


def press(page: sync_api.Page, keys: str) -> str:
    """Press the key and wait for another pair (or the end); the id of the pair that the key was for."""
    before = shown(page)
    page.keyboard.press(keys)
    page.wait_for_selector(f'#pair[data-ready]:not([data-ready="{before}"]), body[data-screen="finished"] #finished')
    return before


def saved(page: sync_api.Page) -> None:
    page.wait_for_selector('#saving:text-is("All saved")')


def text(page: sync_api.Page, place: str) -> str:
    return page.locator(f"#{place} .text").text_content() or ""


def better(page: sync_api.Page) -> str:
    """The key for the good response."""
    return "1" if text(page, "first").startswith("Good") else "2"


def labels(run: Run) -> dict[tuple[str, str], Judgment]:
    if not publish(run).answers:
        return {}
    return {(j.annotator, j.pair.id): j for j in read_jsonl(run.annotations, Judgment)}


def test_labels_by_keyboard_are_right_whichever_side_they_stood_on(browser, server):
    page = opened(browser, server, "Ada")
    assert page.url == server.home  # the token is gone
    assert page.locator("h1:visible, #first-name, #second-name").count() >= 2
    keys, left = [], {}
    while page.is_visible("#pair"):
        keys.append(better(page))
        left[shown(page)] = text(page, "first")
        press(page, keys[-1])
    saved(page)
    assert set(keys) == {"1", "2"} and len(keys) == 6
    assert "Thank you, Ada" in page.inner_text("#finished") and page.inner_text("#done") == "6 of 6"
    said = server.stop()
    assert "6 answers of 1 annotator" in said and "next: rlaif run" in said
    found = read_jsonl(server.run.annotations, Judgment)  # written by the server when it ended
    assert len(found) == 6
    for judgment in found:
        assert (judgment.pair.a if judgment.p_a == 1 else judgment.pair.b).startswith("Good")
        first = judgment.pair.a if judgment.answer.shown_first == "a" else judgment.pair.b
        assert first == left[judgment.pair.id]
        assert 0.3 <= judgment.answer.seconds < 30
    assert {j.answer.shown_first for j in found} == {"a", "b"}


def test_reload_keeps_place_order_and_what_was_typed(browser, server):
    page = opened(browser, server, "Ada")
    press(page, "0")
    here, first = shown(page), text(page, "first")
    page.keyboard.press("r")
    page.keyboard.type("u1s: no key here")
    page.keyboard.press("Enter")
    page.click("summary")
    page.locator(".marks input[value=second]").first.check()
    page.reload()
    assert (shown(page), text(page, "first")) == (here, first)
    assert page.input_value("#reason") == "u1s: no key here"
    press(page, "1")
    saved(page)
    found = labels(server.run)["Ada", here]
    assert found.answer and found.answer.reason == "u1s: no key here"
    assert [(p.principle, p.p_a) for p in found.principles] == [("kind", 1 - found.p_a)]
    assert page.input_value("#reason") == ""


def test_a_killed_server_loses_nothing_and_the_open_page_goes_on(browser, server):
    page = opened(browser, server, "Ada")
    done = [press(page, "1")]
    saved(page)
    server.kill()
    done.append(press(page, "2"))  # the next pair is here already
    page.wait_for_selector('#saving:text-is("1 answer is not saved yet, retrying …")')
    page.keyboard.press("u")  # taken back unsent, and answered again
    assert shown(page) == done[1]
    assert press(page, "0") == done[1]
    done.append(shown(page))
    page.keyboard.press("1")
    page.wait_for_selector("#wait:visible")  # nothing is left that is here
    assert set(labels(server.run)) == {("Ada", done[0])}
    server.start()  # on its old port, with its old token
    saved(page)
    assert shown(page) not in done
    found = labels(server.run)
    assert set(found) == {("Ada", pair_id) for pair_id in done} and found["Ada", done[1]].p_a == 0.5
    store = AnswerStore(server.run.answers)
    assert len(store.standing()) == 3
    store.close()


def test_an_answer_that_waits_outlives_the_page(browser, server):
    page = opened(browser, server, "Ada")
    server.kill()
    here = press(page, "1")
    page.wait_for_selector("#saving[data-tone=trying]")
    context = page.context
    page.close()
    server.start()
    page = context.new_page()
    page.goto(server.home)  # without the token: the cookie has it
    shown(page)
    saved(page)
    assert set(labels(server.run)) == {("Ada", here)}


def test_undo_goes_back_answer_by_answer(browser, server):
    page = opened(browser, server, "Ada")
    assert page.is_disabled("#undo")
    one, two = press(page, "1"), press(page, "2")
    saved(page)
    press(page, "u")
    assert shown(page) == two
    press(page, "Backspace")
    assert shown(page) == one
    saved(page)
    assert labels(server.run) == {} and page.is_disabled("#undo")
    assert press(page, "0") == one
    saved(page)
    page.reload()
    assert shown(page) == two
    press(page, "Control+z")  # of an answer that this page has never seen
    assert shown(page) == one


def test_two_annotators_get_different_pairs(browser, server):
    ada, ben = opened(browser, server, "Ada"), opened(browser, server, "Ben")
    hers, his = [], []
    for _ in range(2):
        hers.append(press(ada, "1"))
        his.append(press(ben, "2"))
    for page in (ada, ben):
        saved(page)
    found = labels(server.run)
    assert set(found) == {("Ada", pair_id) for pair_id in hers} | {("Ben", pair_id) for pair_id in his}
    assert not set(hers) & set(his)
    ada.click("#who")
    assert ada.inner_text("#known-names").split() == ["Ada"]
    ada.reload()
    shown(ada)
    ada.click("#who")
    assert ada.inner_text("#known-names").split() == ["Ada", "Ben"]


SCRIPT = (
    "<script>window.ran = 1; document.title = 'ran'</script><img src=x onerror='window.ran = 2'>&lt;b&gt; </div></html>"
)
HOSTILE = [pair(SCRIPT, SCRIPT + " one", "<svg onload=alert(1)>{{7*7}}"), *pairs(3)]


@pytest.mark.parametrize("server", [HOSTILE], indirect=True)
def test_texts_are_shown_as_they_are_and_nothing_in_them_runs(browser, server):
    page = opened(browser, server, "<b onclick=alert(1)>Ada</b>")
    requested, dialogs, errors = [], [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: errors.append(message.text))
    page.reload()
    shown(page)
    assert {text(page, "first"), text(page, "second")} == {HOSTILE[0].a, HOSTILE[0].b}
    assert page.locator("#conversation p").text_content() == SCRIPT
    assert page.inner_text("#who") == "<b onclick=alert(1)>Ada</b>"
    assert page.locator("main script, main img, main svg, #who b").count() == 0
    page.keyboard.press("e")
    page.keyboard.press("1")
    assert page.input_value("#first textarea") == text(page, "first")
    page.keyboard.press("Escape")
    assert page.title() == "Which response is better?"
    assert page.evaluate("() => window.ran") is None
    assert dialogs == errors == []
    assert all(url.startswith((server.home, "chrome")) for url in requested)


def test_the_better_response_is_edited(browser, server):
    page = opened(browser, server, "Ada")
    place, key = ("first", "1") if better(page) == "1" else ("second", "2")
    page.keyboard.press("e")
    page.keyboard.press(key)
    page.keyboard.press("Control+a")
    page.keyboard.type("10 better words, u0s and all")
    page.keyboard.press("Escape")
    assert labels(server.run) == {} and text(page, place).startswith("Good")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    page.click(f"#edit-{place}")
    assert page.input_value(f"#{place} textarea") == "10 better words, u0s and all"  # a slip of Esc costs nothing
    original = text(page, place)
    here = press(page, "Control+Enter")
    saved(page)
    found = labels(server.run)["Ada", here]
    assert (found.pair.a if found.p_a == 1 else found.pair.b) == original
    (edit,) = read_jsonl(server.run.annotation_edits, Edit)
    assert (edit.original, edit.edited) == (original, "10 better words, u0s and all")
    page.keyboard.press("e")
    page.keyboard.press("1")
    press(page, "Control+Enter")  # nothing changed: a choice, and no edit
    saved(page)
    assert len(labels(server.run)) == 2 and len(read_jsonl(server.run.annotation_edits, Edit)) == 1


def test_skipped_pairs_can_be_looked_at_again(browser, server):
    page = opened(browser, server, "Ada")
    order = [press(page, "s") for _ in range(6)]
    assert page.inner_text("#done") == "6 of 6" and labels(server.run) == {}
    page.click("#finished-skipped")
    assert shown(page) in order
    assert [press(page, "1") for _ in range(6)] != [] and len(labels(server.run)) == 6


def test_a_key_pressed_twice_answers_once(browser, server):
    page = opened(browser, server, "Ada")
    shown(page)
    page.keyboard.press("1")
    page.keyboard.press("1")
    shown(page)
    saved(page)
    assert len(labels(server.run)) == 1


def test_strangers_are_refused(browser, server):
    opened(browser, server, "Ada")
    page = browser.new_context().new_page()
    reply = page.goto(server.home)
    assert reply and reply.status == 403 and "the whole address" in page.inner_text("body")
    assert page.goto(f"{server.home}?token=wrong").status == 403
    # A page from elsewhere, in the very browser that holds the cookie: another port of this machine is enough.
    page.goto(server.address)
    page.route("http://localhost:1/", lambda route: route.fulfill(body="<p>elsewhere</p>", content_type="text/html"))
    page.goto("http://localhost:1/")
    tried = """async (home) => {
      const send = (mode) => fetch(home + "api/work", {method: "POST", mode, credentials: "include",
        headers: {"Content-Type": "text/plain"}, body: '{"annotator": "Eve"}'}).then(r => r.type, e => "blocked");
      return [await send("cors"), await send("no-cors")];
    }"""
    assert page.evaluate(tried, server.home) == ["blocked", "blocked"]
    assert server.run.answers.exists() and labels(server.run) == {}


def test_the_page_works_in_a_narrow_and_a_dark_window(browser, server):
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme="dark")
    page = context.new_page()
    page.goto(server.address)
    page.fill("#name-field", "Ada")
    page.click("text=Begin")
    here = shown(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.click("#choose-tie")
    page.wait_for_selector(f'#pair[data-ready]:not([data-ready="{here}"])')
    saved(page)
    assert labels(server.run)["Ada", here].p_a == 0.5
    page.click("#help-open")
    assert page.is_visible("#help")


def test_the_server_ends_when_it_is_told_to_and_says_what_is_next(browser, server):
    page = opened(browser, server, "Ada")
    press(page, "1")
    saved(page)
    assert "1 answers of" not in (said := server.stop(signal.SIGTERM)) and "1 answer of 1 annotator" in said
    assert os.path.getsize(server.run.annotations) > 0
