"""What the lab keeps: papers with their files, and the figures that were cut out of them."""

from django.db import models


class Document(models.Model):
    title = models.CharField(max_length=255)
    author = models.CharField(max_length=255, blank=True)
    file = models.FileField(upload_to="documents/%Y/%m/")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return self.title


class Figure(models.Model):
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="figures")
    caption = models.TextField(blank=True)
    file = models.FileField(upload_to="figures/%Y/%m/")

    def __str__(self):
        return self.caption or f"figure {self.pk}"


class QueryHistory(models.Model):
    query = models.TextField()
    answer = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "query history"

    def __str__(self):
        return self.query
