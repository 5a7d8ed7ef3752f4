"""The lab's admin, beside which Backup Management stands."""

from django.contrib import admin

from api.models import Document, Figure, QueryHistory

admin.site.site_header = "RNA Lab Navigator Administration"
admin.site.site_title = "RNA Lab Navigator"


class FigureInline(admin.TabularInline):
    model = Figure
    extra = 0


@admin.register(Document)
class DocumentAdmin(admin.ModelAdmin):
    list_display = ["title", "author", "created_at"]
    search_fields = ["title", "author"]
    inlines = [FigureInline]


@admin.register(QueryHistory)
class QueryHistoryAdmin(admin.ModelAdmin):
    list_display = ["query", "created_at"]
    date_hierarchy = "created_at"
