"""The pages on which things are ordered, and the one on which they are watched."""

from functools import wraps

from django.contrib import messages
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth import get_user_model
from django.core import signing
from django.db import DatabaseError
from django.http import FileResponse, Http404, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from rna_backup_django import comparison, download, progress, schedule, summary, tasks
from rna_backup_django.forms import CleanupForm, RestoreForm, TriggerForm
from rna_backup_django.models import Backup, Component, Run
from rna_backup_django.orders import Unreachable, note, order
from rna_backup_django.progress import Watch
from rna_backup_django.rights import Rights

AWAY = "The broker (Redis) does not answer, so nothing was ordered: {}"


def page(admin, request, template, title, status=None, **context):
    """One of our templates as a page of `admin`, with all that Django's own pages have."""
    context = {**admin.admin_site.each_context(request), "opts": admin.opts, "title": title, **context}
    request.current_app = admin.admin_site.name
    return TemplateResponse(request, f"admin/rna_backup/backup/{template}.html", context, status=status)


def through_the_swap(view):
    """While a restore exchanges the database there is none for a moment: the browser is told to come again."""

    @wraps(view)
    def patient(self, request, *args, **kwargs):
        try:
            response = view(self, request, *args, **kwargs)
            return response.render() if isinstance(response, TemplateResponse) else response
        except DatabaseError:
            words = "The database does not answer: perhaps it is being exchanged. This page comes back by itself."
            return HttpResponse(words, status=503, content_type="text/plain", headers={"Refresh": "2", "Retry-After": "2"})

    return patient


class BackupViews:
    """Mixed into the admin of backups."""

    def get_urls(self):
        own = [
            ("trigger/", self.trigger, "trigger"),
            ("cleanup/", self.cleanup, "cleanup"),
            ("undo/<component>/", self.undo, "undo"),
            ("<backup_id>/restore/", self.restore, "restore"),
            ("<backup_id>/verify/", require_POST(self.verify), "verify"),
            ("<backup_id>/pin/", require_POST(self.pin), "pin"),
            ("<backup_id>/unpin/", require_POST(self.unpin), "unpin"),
            ("<backup_id>/accept/", require_POST(self.accept), "accept"),
            ("<backup_id>/download/", self.download, "download"),
        ]
        open_ones = [("progress/<token>/", self.progress, "progress"), ("progress/<token>/status/", self.status, "status")]
        wrap = self.admin_site.admin_view
        urls = [path(route, wrap(view), name=f"rna_backup_{name}") for route, view, name in own]
        # A restore may take the session with it: the signed token is what these ask for.
        urls += [path(route, never_cache(view), name=f"rna_backup_{name}") for route, view, name in open_ones]
        return urls + super().get_urls()

    def url(self, name, *args):
        return reverse(f"{self.admin_site.name}:rna_backup_{name}", args=args)

    def trigger(self, request):
        """Orders a backup."""
        Rights.demand(request, "trigger")
        form = TriggerForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            what = form.cleaned_data["what"]
            title = f"Backup of {dict(form.fields['what'].choices)[what]}"
            arguments = {"label": form.cleaned_data["label"] or None, "pin": form.cleaned_data["pin"]}
            ordered = self._order(request, tasks.BACKUPS[what], arguments, Run.Operation.BACKUP, what, title, ADDITION)
            if ordered:
                return ordered
        return page(self, request, "trigger", "Trigger Backup", form=form, entries=schedule.entries())

    def restore(self, request, backup_id):
        """Says what a restore would overwrite, and orders it once the name of the component was typed."""
        Rights.demand(request, "restore")
        backup = self._backup(backup_id)
        if not backup.is_whole:
            messages.error(request, f"{backup} is {backup.get_state_display()}: it cannot be restored.")
            return HttpResponseRedirect(self.url("backup_changelist"))
        form = RestoreForm(backup.component, request.POST or None)
        title = f"Restore of {backup.get_component_display()}"
        if request.method == "POST" and form.is_valid():
            name = "backup_name" if backup.component == Component.WEAVIATE else "backup_path"
            task, arguments = tasks.RESTORES[backup.component], {name: backup.pk, **form.options()}
            ordered = self._order(request, task, arguments, Run.Operation.RESTORE, backup.component, title, CHANGE, backup)
            if ordered:
                return ordered
        context = {
            "backup": backup,
            "form": form,
            "overwritten": comparison.overwritten(backup),
            "counts": list(comparison.counts(backup)),
            "differences": list(comparison.differences(backup)),
            "companions": comparison.companions(backup),
            "newer": comparison.newer(backup)[:5],
            "newer_count": comparison.newer(backup).count(),
            "is_database": backup.component == Component.POSTGRES,
        }
        return page(self, request, "restore", title, **context)

    def undo(self, request, component):
        """Takes the last restore back."""
        Rights.demand(request, "restore")
        run = summary.undoable().get(component)
        if run is None:
            messages.warning(request, "There is nothing to undo: no restore, or a backup has succeeded since.")
            return HttpResponseRedirect(self.url("backup_changelist"))
        title = f"Undo the {run.operation} of {run.get_component_display()}"
        if request.method == "POST":
            arguments = {"component": component}
            ordered = self._order(request, tasks.undo_restore, arguments, Run.Operation.UNDO, component, title, CHANGE)
            if ordered:
                return ordered
        return page(self, request, "undo", title, run=run, is_database=component == Component.POSTGRES)

    def verify(self, request, backup_id):
        """Looks at a backup again; with `drill` by restoring it beside the live data."""
        Rights.demand(request, "trigger")
        backup, drill = self._backup(backup_id), "drill" in request.POST
        title = f"{'Drill' if drill else 'Verification'} of {backup}"
        arguments = {"component": backup.component, "backup": backup.pk, "drill": drill}
        operation = Run.Operation.DRILL if drill else Run.Operation.VERIFY
        ordered = self._order(request, tasks.verify_backup, arguments, operation, backup.component, title, CHANGE, backup)
        return ordered or HttpResponseRedirect(self.url("backup_change", quote(backup.pk)))

    def pin(self, request, backup_id):
        """Has retention leave a backup alone."""
        Rights.demand(request, "trigger")
        backup = self._backup(backup_id)
        if backup.shortfall:  # its pin accepts it
            Rights.demand(request, "delete")
        return self._amend(request, backup, "Pin", tasks.pin_backup, pinned=True)

    def unpin(self, request, backup_id):
        """Leaves a backup to retention."""
        Rights.demand(request, "delete")
        return self._amend(request, self._backup(backup_id), "Unpin", tasks.pin_backup, pinned=False)

    def accept(self, request, backup_id):
        """Says that a backup has rightly far less than the one before: retention deletes older ones again."""
        Rights.demand(request, "delete")
        return self._amend(request, self._backup(backup_id), "Accept", tasks.accept_backup)

    def _amend(self, request, backup, verb, task, **arguments):
        """Has something written into the manifest of a backup."""
        title, arguments = f"{verb} {backup}", {"backup": backup.pk, **arguments}
        ordered = self._order(request, task, arguments, verb.lower(), backup.component, title, CHANGE, backup)
        return ordered or HttpResponseRedirect(self.url("backup_change", quote(backup.pk)))

    def cleanup(self, request):
        """Deletes what the rules of retention allow to delete; a look at it first."""
        Rights.demand(request, "delete")
        form = CleanupForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            component, days = form.cleaned_data["component"], form.cleaned_data["days"]
            dry_run = "delete" not in request.POST
            title = "What retention would delete" if dry_run else "Retention"
            arguments = {"backup_type": component or None, "retention_days": days, "dry_run": dry_run}
            flag = CHANGE if dry_run else DELETION
            ordered = self._order(request, tasks.cleanup_old_backups, arguments, Run.Operation.PRUNE, component, title, flag)
            if ordered:
                return ordered
        return page(self, request, "cleanup", "Delete old backups", form=form)

    def download(self, request, backup_id):
        """Sends a local archive to a superuser to whom that was allowed by name."""
        Rights.demand(request, "download")
        backup = self._backup(backup_id)
        file = download.local_file(backup)
        if file is None:
            raise Http404("This machine has no file of this backup.")
        opened = open(file, "rb")  # before it is logged: what cannot be read was not downloaded
        note(request.user.pk, CHANGE, f"Downloaded {file.name}.", backup.pk)
        return FileResponse(opened, as_attachment=True, filename=file.name)

    @through_the_swap
    def progress(self, request, token):
        """The page of a task, also for whom the session is gone."""
        watch = self._watch(token)
        context = self._look(request, watch) | {"watch": watch, "status_url": self.url("status", token)}
        if not context["knows"]:
            context["is_nav_sidebar_enabled"] = False  # it would only say that nothing may be seen
        return page(self, request, "progress", watch.title, **context)

    @through_the_swap
    def status(self, request, token):
        """The part of that page that changes, as JSON: `{"over": …, "html": …}`."""
        context = self._look(request, self._watch(token))
        html = render_to_string("admin/rna_backup/backup/steps.html", context, request)
        return JsonResponse({"over": context["over"], "html": html})

    def live(self):
        """What is under way, whoever ordered it; what was typed as a command has no progress to be asked for."""
        for run in summary.running():
            token = run.task_id and Watch.now(run.task_id, str(run).capitalize(), run.operation, run.component, None).token
            yield {"run": run, "page": token and self.url("progress", token), "status": token and self.url("status", token)}

    def _look(self, request, watch):
        """How far a watched task is, for the eyes of this request: without a session no more than that."""
        try:
            steps, away = progress.steps(watch), ""
        except Unreachable as error:
            steps, away = [], str(error)
        over = bool(steps) and all(step.is_over for step in steps)
        good = over and steps[0].is_good
        if good and watch.replaces_database:
            self._note_again(watch)  # with the first sight of success: after it people go elsewhere
        if good and watch.operation == Run.Operation.RESTORE:
            over = steps[0].is_old or summary.is_told(watch.task_id)  # from then on it can be undone
        knows = self.admin_site.has_permission(request) and Rights.of(request).view
        undo = ""
        if over and knows and watch.operation == Run.Operation.RESTORE and watch.component in summary.undoable():
            undo = self.url("undo", watch.component)
        return {"steps": steps, "away": away, "over": over, "knows": knows, "undo": undo, "watch": watch}

    def _note_again(self, watch):
        """The log entry of a restore of the app's own database went away with the database that it replaced."""
        user = get_user_model().objects.filter(pk=watch.user_id).first()
        if user and not LogEntry.objects.filter(change_message__contains=watch.task_id).exists():
            note(user.pk, CHANGE, f"{watch.title}. Task {watch.task_id}.", what=watch.name)

    def _order(self, request, task, arguments, operation, component, title, flag, backup=None):
        """Sends a task and goes to its progress page; None, with a message, when the broker is away."""
        about = {"backup_id": backup.pk} if backup else {"what": title}
        sentence = f"{title}{f' from {backup}' if backup and operation == Run.Operation.RESTORE else ''}."
        try:
            task_id = order(request.user.pk, flag, sentence, task, arguments, **about)
        except Unreachable as error:
            messages.error(request, AWAY.format(error))
            return None
        watch = Watch.now(task_id, title, operation, component, request.user.pk)
        return HttpResponseRedirect(self.url("progress", watch.token))

    def _backup(self, backup_id):
        """The row of the catalogue: nothing that is not there is ever ordered."""
        try:
            return Backup.objects.get(pk=backup_id)
        except Backup.DoesNotExist:
            raise Http404("There is no such backup in the catalogue.") from None

    def _watch(self, token):
        try:
            return Watch.read(token)
        except (signing.BadSignature, TypeError):
            raise Http404("This address is not ours, or too old.") from None
