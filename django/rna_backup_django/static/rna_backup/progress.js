"use strict";
// Fetches what the status view renders, until it says that all is over. Without script the page renews itself.
{
    const EVERY = 700; // milliseconds: the worker reports twice a second

    // The worker answers first and then writes the run down, with which the link to undo comes.
    const LOOKS_AFTERWARDS = 15;

    const follow = (box) => {
        let shown = "";
        let left = LOOKS_AFTERWARDS;
        const look = async () => {
            let answer = null;
            try {
                const response = await fetch(box.dataset.backupStatus, {credentials: "same-origin", cache: "no-store"});
                answer = response.ok ? await response.json() : null;
            } catch {
                // The server or the database is away for a moment, as in a restore: it is asked again.
            }
            if (answer && answer.html !== shown) {
                box.innerHTML = shown = answer.html;
            }
            if (!answer || !answer.over || left-- > 0) {
                setTimeout(look, EVERY);
            }
        };
        look();
    };

    document.addEventListener("DOMContentLoaded", () => {
        document.querySelectorAll("[data-backup-status]:not([data-over])").forEach(follow);
    });
}
