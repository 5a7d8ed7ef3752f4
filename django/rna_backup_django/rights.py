"""Who may do what. Each is a permission of its own: to look, to trigger, to overwrite, to delete, to download."""

from dataclasses import dataclass

from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied
from django.db.models import Q


@dataclass(frozen=True)
class Rights:
    """What the user of a request may do with backups."""

    view: bool
    trigger: bool
    restore: bool
    delete: bool
    download: bool

    @classmethod
    def of(cls, request):
        user = request.user
        named = {name: user.has_perm(f"rna_backup.{name}_backup") for name in ("view", "trigger", "restore", "delete")}
        return cls(**named, download=_may_download(user))

    @classmethod
    def demand(cls, request, name):
        """Raises `PermissionDenied` unless the user has this one. To look is part of each."""
        rights = cls.of(request)
        if not (rights.view and getattr(rights, name)):
            raise PermissionDenied(f"This needs the permission rna_backup.{name}_backup.")
        return rights


def _may_download(user):
    """A dump holds every secret of the app: superusers alone, and those only to whom it was given by name."""
    if not (user.is_active and user.is_superuser):
        return False
    given = Permission.objects.filter(content_type__app_label="rna_backup", codename="download_backup")
    return given.filter(Q(user=user) | Q(group__user=user)).exists()
