"""Backup Management: the lists of backups and of runs."""

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

from rna_backup_django import comparison, download, summary
from rna_backup_django.models import Backup, Run
from rna_backup_django.rights import Rights
from rna_backup_django.views import BackupViews, page

NOTHING = "–"


class DestinationFilter(admin.SimpleListFilter):
    """Where a copy lies."""

    title = "destination"
    parameter_name = "destination"

    def lookups(self, request, model_admin):
        return [("local", "Local disk"), ("s3", "Bucket")]

    def queryset(self, request, queryset):
        return queryset.filter(destinations__contains=[{"destination": self.value()}]) if self.value() else queryset


class ReadOnly(admin.ModelAdmin):
    """The tables follow the worker's manifests: nobody writes them here."""

    actions = None
    empty_value_display = NOTHING
    list_per_page = 50

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    def changelist_view(self, request, extra_context=None):
        if not Backup.objects.is_there():
            return page(self, request, "no_tables", "Backup Management")
        return super().changelist_view(request, extra_context)

    @admin.display(description="took")
    def took(self, row):
        return _clock(row.duration.total_seconds()) if row.duration else NOTHING


@admin.register(Backup)
class BackupAdmin(BackupViews, ReadOnly):
    """The list of backups, and what can be ordered for them."""

    # Few columns of two lines each: beside Django's sidebar and the filters there is room for no more.
    list_display = ["component", "when", "stored", "proven", "named"]
    list_filter = ["component", "created_at", "state", "verified", DestinationFilter, "pinned"]
    search_fields = ["backup_id", "label", "set_id", "task_id"]
    search_help_text = "Name, label, set or task"
    date_hierarchy = "created_at"
    change_list_template = "admin/rna_backup/backup/list.html"
    change_form_template = "admin/rna_backup/backup/detail.html"
    fieldsets = [
        (None, {"fields": ["component", "created_at", "label", "pinned", "set", "task_id"]}),
        ("Proven", {"fields": ["state", "verified", "verified_at", "remarks"]}),
        ("Archive", {"fields": ["size", "data_size", "took", "sha256", "copies", "builds_on"]}),
        ("Data", {"fields": ["holds", "versions", "migrations"]}),
    ]

    class Media:
        css = {"all": ["rna_backup/backup.css"]}
        js = ["rna_backup/progress.js"]

    def get_queryset(self, request):
        # A row's manifest may be a megabyte; the pages of one backup read it when they want it.
        return super().get_queryset(request).bare()

    def get_list_display(self, request):
        shown = list(self.list_display)
        if Rights.of(request).restore:
            shown.insert(2, "restore_link")
        return shown

    def get_readonly_fields(self, request, obj=None):
        return [name for _, options in self.fieldsets for name in options["fields"]]

    def changelist_view(self, request, extra_context=None):
        context = {"standings": summary.standings, "live": self.live, "may": Rights.of(request)}
        context["title"] = "Backup Management"
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def change_view(self, request, object_id, form_url="", extra_context=None):
        backup = self.get_object(request, unquote(object_id))
        context = {"may": Rights.of(request), "file": backup and download.local_file(backup)}
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    @admin.display(description="when", ordering="created_at")
    def when(self, backup):
        return _moment(backup.created_at)

    @admin.display(description="size", ordering="size_bytes")
    def stored(self, backup):
        """How much, and where."""
        return _two(self.size(backup), ", ".join(place["destination"] for place in backup.destinations))

    @admin.display(description="size")
    def size(self, backup):
        return filesizeformat(backup.size_bytes)

    @admin.display(description="size of the data")
    def data_size(self, backup):
        return NOTHING if backup.source_bytes is None else filesizeformat(backup.source_bytes)

    @admin.display(description="verified", ordering="verified")
    def proven(self, backup):
        """How far it was proven; what was found bad since then is worse than any level is good."""
        words = backup.get_verified_display() if backup.is_whole else backup.get_state_display()
        return _two(format_html('<span class="backup-{}">{}</span>', backup.state, words), "pinned" if backup.pinned else "")

    @admin.display(description="copies")
    def copies(self, backup):
        rows = ((p["destination"], p["location"], filesizeformat(p["bytes"]), p["state"]) for p in backup.destinations)
        return _list("{}: {} ({}, {})", rows)

    @admin.display(description="builds on")
    def builds_on(self, backup):
        """The archives that hold what an incremental one leaves out: whoever downloads it needs them too."""
        return _list("{}", ((name,) for name in backup.facts.get("builds_on", [])))

    @admin.display(description="set")
    def set(self, backup):
        if not backup.set_id:
            return NOTHING
        url = reverse(f"{self.admin_site.name}:rna_backup_backup_changelist")
        return format_html('<a href="{}?set_id={}" title="All backups of this set">{}</a>', url, backup.set_id, backup.set_id[:8])

    @admin.display(description="label, set", ordering="label")
    def named(self, backup):
        label = format_html('<span class="backup-label" title="{}">{}</span>', backup.label, backup.label) if backup.label else ""
        return _two(label, self.set(backup) if backup.set_id else "")

    @admin.display(description="")
    def restore_link(self, backup):
        """Beside each backup, where the app's manual says it is."""
        if not backup.is_whole:
            return ""
        url = reverse(f"{self.admin_site.name}:rna_backup_restore", args=[backup.pk])
        return format_html('<a href="{}" aria-label="Restore {}">Restore</a>', url, backup.pk)

    @admin.display(description="remarks")
    def remarks(self, backup):
        objects = (backup.manifest or {}).get("objects", [])
        found = [f"{place['destination']}: {problem}" for place in objects for problem in place.get("problems", [])]
        return _list("{}", [[text] for text in found + backup.shortfall + backup.facts.get("warnings", [])])

    @admin.display(description="holds")
    def holds(self, backup):
        return _list("{} {}", ((f"{count:,}", what) for what, count in comparison.counts(backup)))

    @admin.display(description="versions")
    def versions(self, backup):
        found = {**backup.facts.get("versions", {}), "rna-backup": (backup.manifest or {}).get("program", "unknown")}
        return _list("{} {}", sorted(found.items()))

    @admin.display(description="newest migrations")
    def migrations(self, backup):
        return _list("{}: {}", sorted(backup.facts.get("migrations", {}).items()))


@admin.register(Run)
class RunAdmin(ReadOnly):
    """What was done and why it failed."""

    list_display = ["what", "when", "ended", "about"]
    list_filter = ["operation", "component", "state", "started_at"]
    search_fields = ["run_id", "backup_id", "error", "worker"]
    date_hierarchy = "started_at"
    fields = ["operation", "component", "state", "started_at", "finished_at", "took", "backup_id", "task_id", "error", "worker"]

    def get_queryset(self, request):
        return super().get_queryset(request).defer("result")

    @admin.display(description="run", ordering="operation")
    def what(self, run):
        return _two(run.get_operation_display(), run.get_component_display())

    @admin.display(description="started", ordering="started_at")
    def when(self, run):
        return _moment(run.started_at)

    @admin.display(description="state", ordering="state")
    def ended(self, run):
        """How, and after how long."""
        return _two(run.get_state_display(), self.took(run) if run.duration else "")

    @admin.display(description="error, backup", ordering="backup_id")
    def about(self, run):
        error = format_html('<span class="backup-error" title="{}">{}</span>', run.error, run.error[:120]) if run.error else ""
        return _two(error, run.backup_id)

    class Media:
        css = {"all": ["rna_backup/backup.css"]}


def _moment(moment):
    moment = timezone.localtime(moment)
    return _two(format_html('<span class="nowrap">{}</span>', date_format(moment)), date_format(moment, "TIME_FORMAT"))


def _two(first, second):
    """A cell of two lines, or of one."""
    return format_html_join(mark_safe("<br>"), "{}", ([line] for line in (first, second) if line)) or NOTHING


def _list(pattern, rows):
    rows = list(rows)
    if not rows:
        return NOTHING
    return format_html("<ul class='backup-facts'>{}</ul>", format_html_join("", f"<li>{pattern}</li>", rows))


def _clock(seconds):
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
