"""The admin alone: the lab's pages are of no matter here."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
