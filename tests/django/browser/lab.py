"""The lab, whole: servers, the worker, the web app, and a browser that looks at it."""

import re
import tempfile

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from servers import ROOT, Postgres, Redis, Weaviate, Worker, wait_for
from web import Web

SCREENSHOTS = ROOT / "target/screenshots"
PASSWORD = "Nucleotide-7"
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
VIEWER = ["view_backup", "view_run"]

STEPS = """return [...document.querySelectorAll('.backup-step')].map(step => ({
    name: step.querySelector('h2').innerText, state: step.dataset.state, percent: step.querySelector('progress[value]')?.value ?? null,
    text: step.innerText, over: ['SUCCESS', 'FAILURE', 'REVOKED'].includes(step.dataset.state)}))"""

UNNAMED = """return [...document.querySelectorAll('#content :is(input, select, textarea, button, progress, svg)')]
    .filter(e => e.type !== 'hidden' && !e.labels?.length && !e.ariaLabel && !e.getAttribute('aria-labelledby') && !e.value && !e.innerText)
    .map(e => e.outerHTML)"""

# The ratio of WCAG 2 between a text and what lies behind it, for all that is ours.
PALE = """
const parse = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const luminance = colour => [0, 1, 2].map(i => colour[i] / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll('#backup-summary td *, .backup-step > :not(h2), .backup-tools .backup-danger, .submit-row *, #content-main > p, .messagelist li')]
    .filter(e => e.innerText?.trim() || e.value).map(e => {
        const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 200)];
    }).filter(([ratio]) => ratio < 4.5)"""


# What must be scrolled sideways to be seen.
CUT_OFF = """return [document.documentElement, ...document.querySelectorAll('#content *')]
    .filter(e => e === document.documentElement || ['auto', 'scroll'].includes(getComputedStyle(e).overflowX))
    .filter(e => e.scrollWidth > e.clientWidth).map(e => `${e.scrollWidth} > ${e.clientWidth}: ${e.outerHTML.slice(0, 200)}`)"""

WIDTH = 1280
"""Of the window: a small laptop's."""


class Lab:
    """Everything that runs, and the data that is in it."""

    def __init__(self, stage, program, version):
        self.stage, self.version = stage, version
        self.redis, self.postgres, self.weaviate = Redis(stage), Postgres(stage), Weaviate(stage)
        self.media, self.root = stage.dir / "media", stage.dir / "backups"
        self.media.mkdir()
        self.env = self.weaviate.env() | {
            "REDIS_URL": self.redis.url,
            "DATABASE_URL": self.postgres.url(),
            "MEDIA_ROOT": str(self.media),
            "BACKUP_ROOT": str(self.root),
            "BACKUP_RESTORE_KEY": "what both sides know: é",
            "BACKUP_COMPRESSION": "gzip:6",  # as slowly as can be, so that its progress can be seen
            "BACKUP_MEDIA_FULL_EVERY": "0",  # so that retention may take each by itself
            "AWS_BACKUP_BUCKET": "",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }
        self.web = Web(stage, self.env, version)
        self.users = {"admin": None, "viewer": VIEWER, "operator": [*VIEWER, "trigger_backup"]}
        self.web.fill(PASSWORD, self.users, ["Folding of RNA", "प्रोटीन 🧬"])
        self.web.start()
        self.worker = Worker(stage, program, self.env)
        self.worker.start()

    def backups(self, component):
        """Ids as the table has them, newest first."""
        sql = f"select backup_id from rna_backup_backup where component = '{component}' order by created_at desc"
        return self.postgres.psql(sql).stdout.split()

    def documents(self):
        return int(self.postgres.psql("select count(*) from api_document").stdout)

    def logged(self, words):
        """Users whose log entry begins so."""
        sql = f"select username from django_admin_log l join auth_user u on u.id = l.user_id where change_message like '{words}%'"
        return self.postgres.psql(sql).stdout.split()


class Browser:
    """Chromium, one window, fresh."""

    def __init__(self, lab, url=None, script=True):
        self.lab, self.url = lab, url or lab.web.url
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", dir=lab.stage.dir)
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS.split(), f"user-data-dir={self.profile.name}", f"window-size={WIDTH},1000"]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not script:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))

    def quit(self):
        self.driver.quit()
        self.profile.cleanup()

    def open(self, path="rna_backup/backup/"):
        self.driver.get(self.url + path)

    def open_backup(self, backup):
        self.open(f"rna_backup/backup/{backup.replace('_', '_5F')}/change/")  # as Django's admin quotes ids

    def log_in(self, user="admin"):
        self.open("login/")
        self.driver.delete_all_cookies()
        self.open("login/")
        self.type("username", user)
        self.type("password", PASSWORD)
        self.press("Log in")
        assert "login" not in self.driver.current_url, self.text()

    def find(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def has(self, css):
        return bool(self.driver.find_elements(By.CSS_SELECTOR, css))

    def type(self, name, text):
        field = self.driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def go(self, element):
        """Clicks what leads to another page, and waits for that."""
        self.driver.execute_script("window.here = true")
        element.click()
        wait_for("the next page", self.is_elsewhere)

    def is_elsewhere(self):
        try:
            return self.driver.execute_script("return !window.here && document.readyState === 'complete'")
        except WebDriverException:
            return False  # between two pages there is nothing to ask

    def follow(self, words):
        self.go(self.driver.find_element(By.PARTIAL_LINK_TEXT, words))

    def offers_undo(self):
        return self.driver.find_elements(By.PARTIAL_LINK_TEXT, "Undo this restore")

    def press(self, words):
        buttons = self.driver.find_elements(By.CSS_SELECTOR, "#content [type=submit], #content button")
        self.go(next(button for button in buttons if words in (button.text or button.get_attribute("value"))))

    def text(self):
        return self.find("body").text

    def rows(self):
        return [re.sub(r"\s+", " ", row.text) for row in self.driver.find_elements(By.CSS_SELECTOR, "#result_list tbody tr")]

    def watch(self):
        """Looks at a progress page until it is over, without loading it again: each different view of its steps."""
        mark = "window.notLoadedAgain = (window.notLoadedAgain ?? 0) + 1; return window.notLoadedAgain"
        seen, looks = [], self.driver.execute_script(mark)

        def is_over():
            steps = self.driver.execute_script(STEPS)
            if not seen or steps != seen[-1]:
                seen.append(steps)
            return steps and all(step["over"] for step in steps)

        wait_for("the end of what the page shows", is_over, self.lab.worker.process, seconds=60)
        assert self.driver.execute_script(mark) == looks + 1, "the page was loaded anew"
        return seen

    def shot(self, name):
        """A picture of the whole page, for people."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        height = self.driver.execute_script("return document.querySelector('#content').getBoundingClientRect().bottom + scrollY") or 600
        self.driver.set_window_size(WIDTH, max(700, int(height) + 160))
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}-{self.lab.version}.png"))

    def dark(self, on=True):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def faults(self):
        """What is not in order with the page that is shown: controls without names, pale text, what is cut off, what its policy forbids."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        forbidden = [message for message in console if "Content Security Policy" in message or "Uncaught" in message]
        return forbidden + [fault for script in (UNNAMED, PALE, CUT_OFF) for fault in self.driver.execute_script(script)]
