# syntax=docker/dockerfile:1
# The worker with the programs that it calls.
#
#   docker build -t rna-backup .
#   docker build -t rna-backup --build-arg POSTGRES_MAJORS=16 .                 the client of your server alone
#   docker build -t rna-backup --build-arg PGDG= --build-arg POSTGRES_MAJORS=15 .     from Debian alone

ARG DEBIAN=bookworm
ARG RUST=1.95

FROM rust:${RUST}-slim-${DEBIAN} AS build
WORKDIR /src
# The dependencies, in a layer that lasts until Cargo.lock changes: built for a program that does nothing.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir -p src tests \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs tests/integration.rs \
    && cargo build --locked --release \
    && rm -r src
COPY schemas schemas
COPY src src
# Cargo goes by times, and those of the sources may be older than the program that does nothing.
RUN find src -name '*.rs' -exec touch {} + && cargo build --locked --release

# The key of PostgreSQL's own repository, as Debian signs it.
FROM debian:${DEBIAN}-slim AS key
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-common \
    && rm -rf /var/lib/apt/lists/*

FROM debian:${DEBIAN}-slim
ARG DEBIAN
# A dump is restored best by the client of its server's own version: the worker takes the one that fits.
ARG POSTGRES_MAJORS="15 16 17 18"
ARG PGDG=https://apt.postgresql.org/pub/repos/apt
COPY --from=key /usr/share/postgresql-common/pgdg/apt.postgresql.org.asc /etc/apt/keyrings/pgdg.asc
# Versions are those that the distribution has mended last: a pinned one would keep its holes.
# hadolint ignore=DL3008
RUN set -eu; \
    apt-get update; \
    apt-get install --yes --no-install-recommends ca-certificates tar zstd; \
    if [ -n "${PGDG}" ]; then \
        echo "deb [signed-by=/etc/apt/keyrings/pgdg.asc] ${PGDG} ${DEBIAN}-pgdg main" \
            >/etc/apt/sources.list.d/pgdg.list; \
        apt-get update; \
    fi; \
    for major in ${POSTGRES_MAJORS}; do \
        apt-get install --yes --no-install-recommends "postgresql-client-${major}"; \
    done; \
    rm -rf /var/lib/apt/lists/*
# A fresh volume takes over the owner of the folder that it is mounted on.
RUN groupadd --gid 10001 backup \
    && useradd --uid 10001 --gid backup --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin backup \
    && install --directory --owner=backup --group=backup --mode=0700 /backups \
    && install --directory --owner=backup --group=backup --mode=0755 /media /weaviate-backups
COPY --from=build /src/target/release/rna-backup /usr/local/bin/rna-backup

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rna-backup" \
      org.opencontainers.image.description="A Celery-compatible worker that backs up PostgreSQL, Weaviate and media, and restores them safely" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

USER 10001:10001
WORKDIR /backups
ENV BACKUP_ROOT=/backups
EXPOSE 9188
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["rna-backup", "healthcheck"]
ENTRYPOINT ["rna-backup"]
CMD ["worker"]
