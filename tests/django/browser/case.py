"""What the tests in a browser share."""

import re
import unittest

from lab import Browser
from servers import wait_for


class InBrowser(unittest.TestCase):
    """Tests with one lab and one window; the driver of the tests sets the lab."""

    lab = None

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser(cls.lab)
        cls.addClassCleanup(cls.browser.quit)

    def setUp(self):
        self.browser.log_in()  # anew for each: restores take sessions with them

    def trigger(self, what, label=""):
        """Orders a backup by the form, as the app's manual says; what its page showed until the end."""
        self.browser.open()
        self.browser.follow("TRIGGER BACKUP")
        self.browser.find(f"[name=what][value={what}]").click()
        self.browser.type("label", label)
        self.browser.press("Trigger Backup")
        return self.browser.watch()

    def succeeded(self, seen):
        for step in seen[-1]:
            self.assertEqual(step["state"], "SUCCESS", step["text"])

    def back_up(self, component, label=""):
        """Triggers a backup of one component, which succeeds; its id, once it is listed."""
        seen = self.trigger(component, label)
        self.succeeded(seen)
        made = re.search(r"\w+_backup_\d{8}_\d{6}(_\d+)?", seen[-1][0]["text"])[0]
        wait_for(f"the row of {made}", lambda: made in self.lab.backups(component))
        return made

    def restore(self, component, backup):
        """Restores a backup by the link beside it."""
        self.browser.open()
        self.browser.go(self.browser.find(f'a[aria-label="Restore {backup}"]'))
        self.browser.type("name", component)
        self.browser.press("Restore")
        seen = self.browser.watch()
        self.succeeded(seen)
        return seen

    def undo(self):
        # The worker answers first and then writes the run down, with which the link comes.
        wait_for("the link to undo", self.browser.offers_undo)
        self.browser.follow("Undo this restore")
        self.browser.press("Undo")
        self.succeeded(self.browser.watch())
