"""Backup Management in Django Admin. The backups themselves are the work of `rna-backup worker`."""
