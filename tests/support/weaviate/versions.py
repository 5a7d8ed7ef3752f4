"""What each Weaviate version can do: one table, read from the server's releases.

A behaviour that was carried back to older lines names the first release of every line that has it;
every line above the last one named has it too.
"""

import functools

SINCE = {
    # Routes.
    "cancel_backup": ("1.24.25", "1.25.17", "1.26.5"),
    "list_route": ("1.24.25", "1.25.17", "1.26.5"),
    "list_works": ("1.30.12", "1.31.5", "1.32.0"),
    "list_has_dates": ("1.31.15", "1.32.8"),
    "list_has_size": ("1.32.14", "1.33.2"),
    "cancel_restore": ("1.36.0",),
    # What a request may say.
    "config": ("1.24.0",),
    "more_compression": ("1.32.18", "1.33.6", "1.34.1", "1.35.0"),
    "location": ("1.27.2",),
    "wildcards": ("1.36.0",),
    "node_mapping_works": ("1.31.22", "1.32.27", "1.33.12", "1.34.8", "1.35.3", "1.36.0"),
    "id_in_refusal": ("1.27.2",),
    "missing_id_is_500": ("1.34.18", "1.38.0"),
    "malformed_cancel_is_422": ("1.37.10", "1.38.2"),
    # What a status says.
    "status_has_dates": ("1.31.15", "1.32.8"),
    "status_has_size": ("1.33.12", "1.34.8", "1.35.3"),
    "restore_states": ("1.36.0",),
    "store_faults_are_500": ("1.37.10", "1.38.2"),
    "early_success": ("1.36.0",),
    # What happens.
    "restart_cancels": ("1.27.4",),
    "two_phase_restore": ("1.25.0",),
    "long_exists_text": ("1.36.0",),
    "first_digit_compared": ("1.25.0",),
    "refuses_before_1_23": ("1.38.8", "1.39.0"),
    "reads_1_22": ("1.23.13", "1.24.3"),
    "deleted_class_is_skipped": ("1.32.17", "1.33.5", "1.34.1"),
    "cold_tenants_inside": ("1.35.17", "1.36.10", "1.37.0"),
    "cancelled_id_slip": ("1.27.0",),
    "role_rights": ("1.28.0",),
    "narrowed_classes": ("1.36.19", "1.37.10", "1.38.2"),
    # What lies on disk.
    "structure_2_1": ("1.25.0",),
    "leader": ("1.25.0",),
    "pre_compression_size": ("1.32.0",),
    "compression_type": ("1.32.18", "1.33.6", "1.34.1", "1.35.0"),
    "shard_over_chunks": ("1.27.0",),
    "shard_directories": ("1.23.0",),
    "chunk_truncates": ("1.27.0",),
    # Schema and data.
    "named_vectors": ("1.24.0",),
    "schema_unordered": ("1.25.0",),
    "nodes_lag": ("1.24.0",),
    "nodes_minimal": ("1.24.0",),
    "active_inactive": ("1.26.0",),
    "auto_tenants": ("1.25.2",),
    "async_replication": ("1.26.0",),
    "deletion_strategy": ("1.28.0",),
    "fewer_connections": ("1.26.0",),
    "range_filters": ("1.26.0",),
    "bq": ("1.23.0",),
    "sq": ("1.26.0",),
    "rq": ("1.32.0",),
    "multivector": ("1.29.0",),
    "filter_strategy": ("1.27.0",),
    "block_max": ("1.30.0",),
    "grpc_size_in_meta": ("1.29.0",),
}


def parse(text):
    """The numbers of `1.26.1`; a pre-release mark is left out."""
    numbers = text.split("-")[0].split(".")
    if len(numbers) != 3:
        raise ValueError(f"a version has three numbers: {text}")
    return tuple(int(number) for number in numbers)


class Version:
    """A server version that answers whether it has a behaviour of the table."""

    def __init__(self, text):
        self.text = text
        self.numbers = parse(text)

    @functools.lru_cache(maxsize=None)
    def has(self, behaviour):
        """True from the first release that has the behaviour on."""
        firsts = [parse(first) for first in SINCE[behaviour]]
        if any(first[:2] == self.numbers[:2] for first in firsts):
            return any(first[:2] == self.numbers[:2] and self.numbers >= first for first in firsts)
        return self.numbers[:2] > max(firsts)[:2]

    @property
    def structure(self):
        """The `version` field of a descriptor: 2.0 up to 1.24, 2.1 from 1.25 on."""
        return "2.1" if self.has("structure_2_1") else "2.0"
