"""cutover --report: one page that can be filed, from what the cutover measured."""

import html.parser
import json
import os
import threading
import time

import psycopg2
import pytest

from lib.common import wait_until
from lib.proxy import Proxy, strip_rule

pytestmark = pytest.mark.majors(12, 99)


class Page(html.parser.HTMLParser):
    """What stands in it; fails on a tag that is closed in the wrong place."""

    VOID = {"meta", "br", "line", "rect", "circle"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.links = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)


@pytest.fixture
def proxy(db, pg):
    instance = Proxy(pg, rules=[strip_rule("strip", database=db.name)]).start()
    yield instance
    instance.stop()


def client(proxy, db, stopping, sql, errors):
    connection = psycopg2.connect(proxy.dsn(db.name, "app"))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            while not stopping.is_set():
                cursor.execute(sql)
                time.sleep(0.002)
    except psycopg2.Error as error:
        errors.append(error)
    finally:
        connection.close()


@pytest.fixture
def load(proxy, db):
    stopping, errors = threading.Event(), []
    work = ["INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')",
            "INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('b', 1, 'x')",
            "SELECT count(*) FROM chunks WHERE id < 10"]
    threads = [threading.Thread(target=client, args=(proxy, db, stopping, sql, errors))
               for sql in work]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    yield
    stopping.set()
    for thread in threads:
        thread.join()
    assert errors == [], proxy.log()[-3000:]


def test_the_page_and_its_figures(proxy, db, load):
    db.as_owner("COMMENT ON COLUMN chunks.partition_key IS '</script><b>&'")
    db.psql("UPDATE chunks SET content = E'a \"quoted\", \\\\. and\\nlong ' || id, document_id = "
            "CASE WHEN id % 3 = 0 THEN NULL WHEN id % 3 = 1 THEN '' END")
    file = proxy.dir / "report.html"
    done = proxy.command("cutover", "chunks", "--yes", "--max-hold", "10s", "--json",
                         "--report", str(file))
    assert done.returncode == 0 and f"report: {file}" in done.stderr, done.stdout + done.stderr
    report = json.loads(done.stdout)
    if os.environ.get("PGSLUICE_KEEP_REPORT"):
        with open(os.environ["PGSLUICE_KEEP_REPORT"], "w") as kept:
            kept.write(file.read_text())
    page = Page(file.read_text())
    assert page.links == [] and page.tags.count("svg") == 2 and page.tags.count("script") == 1
    words = " ".join(page.words)
    for expected in ("public.chunks", "partition_key", report["run"], "The hold", "The keys",
                     "What was checked", "trigger-body", "DROP COLUMN", "gate holds", "skew",
                     "What an INSERT costs", "one row a statement"):
        assert expected in words, expected

    text = file.read_text()
    data = text[text.index('id="report">') + len('id="report">'):]
    assert json.loads(data[:data.index("</script>")]) == report


def test_what_was_measured(proxy, db, load):
    done = proxy.command("cutover", "chunks", "--yes", "--max-hold", "10s", "--json",
                         "--report", str(proxy.dir / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((proxy.dir / "report.json").read_text())
    assert report == json.loads(done.stdout)

    at = {entry["state"]: entry["ms"] for entry in report["timeline"]}
    points = report["latency"]["points"]
    assert any(p["ms"] < at["hold"] for p in points) and any(p["ms"] > at["done"] for p in points)
    # who began to write in the hold waited for its end, who began before or after it did not
    held = max(p["write_max_ms"] for p in points if at["hold"] - 10 <= p["ms"] <= at["release"])
    assert report["hold"]["held_statements"] > 0
    assert held >= report["hold"]["max_held_ms"], (held, report["hold"])
    assert sum(p["writes"] for p in points) > 10 and sum(p["reads"] for p in points) > 5

    cost = report["insert_cost"]
    assert {path["path"] for path in cost["paths"]} == {
        "one row a statement", "all rows in one VALUES", "INSERT ... SELECT", "COPY"}
    for path in cost["paths"]:
        assert path["trigger_us"] > 0 and path["generated_us"] > 0
        assert path["change"] == pytest.approx(path["generated_us"] / path["trigger_us"] - 1)
    assert db.psql("SELECT count(*) FROM pg_class WHERE relname IN ('pgsluice_trigger', "
                   "'pgsluice_generated', 'pgsluice_rows', 'pgsluice_times')") == "0"


def test_a_refused_cutover_has_a_page_too(proxy, db):
    db.psql("UPDATE chunks SET partition_key = 1000 WHERE id = 3")
    file = proxy.dir / "report.html"
    done = proxy.command("cutover", "chunks", "--yes", "--report", str(file))
    assert done.returncode == 1, done.stdout
    words = " ".join(Page(file.read_text()).words)
    assert "refused: 1 of" in words and "1 of 2000 rows have another value" in words
    assert not db.is_generated()


def test_a_report_that_cannot_be_written(proxy, db):
    done = proxy.command("cutover", "chunks", "--yes", "--report", "/nowhere/report.html")
    assert done.returncode == 2 and "/nowhere/report.html: No such file" in done.stderr
    assert not db.is_generated()


def test_a_cutover_that_nobody_confirms_leaves_no_report(proxy, db, tmp_path):
    file = tmp_path / "report.html"
    done = proxy.command("cutover", "chunks", "--report", str(file))
    assert done.returncode != 0 and not file.exists(), done
    assert not db.is_generated()


def test_status_shows_the_gate_and_the_cutover(proxy, db):
    status = json.loads(proxy.command("status", "--json").stdout)
    assert status["cutover"] is None and status["last_cutover"] is None
    with psycopg2.connect(db.dsn("app")) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE chunks IN ACCESS SHARE MODE")
        running = threading.Thread(target=proxy.command, args=("cutover", "chunks", "--yes"))
        running.start()
        wait_until(lambda: json.loads(proxy.command("status", "--json").stdout)["gates"][0]["state"]
                   != "open", 20, "an attempt")
        status = json.loads(proxy.command("status", "--json").stdout)
        assert status["cutover"]["command"] == "cutover" and status["cutover"]["rule"] == "chunks"
        assert status["cutover"]["phase"] in ("gate", "arm", "hold", "flip", "backoff"), status
    other.close()
    running.join()
    status = json.loads(proxy.command("status", "--json").stdout)
    assert status["cutover"] is None and status["gates"][0]["state"] == "open"
    last = status["last_cutover"]
    assert last["exit"] == 0 and "is now GENERATED" in last["summary"], last
    assert "is now GENERATED" in proxy.command("status").stdout
